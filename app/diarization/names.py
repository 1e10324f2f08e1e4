"""The names of speakers: known voices have one, the others are A, B and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.speakers import speaker_label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

#: A speaker is a known one if their voices have at least this cosine. Those of two people nearly never have.
_MIN_COSINE: Final = 0.55


def speaker_names(speakers: Iterable[int], known: Mapping[int, str]) -> dict[int, str]:
    """Return a name for each speaker: the ``known`` ones, and labels in the order in which ``speakers`` appear."""
    names = dict(known)
    number = 0
    for speaker in speakers:
        while speaker not in names:
            label = speaker_label(number)
            number += 1
            if label not in known.values():
                names[speaker] = label
    return names


def known_speakers(centroids: Vectors, known: Mapping[str, Vectors]) -> dict[int, str]:
    """Return the names of the speakers whose voices are known, by index; each name is given to one speaker at most.

    ``centroids`` has the shape ``(speakers, dimensions)``, each known voice ``(dimensions,)``; all have unit length.
    """
    if not known or not len(centroids):
        return {}
    names = list(known)
    cosines = centroids @ np.stack([known[name] for name in names]).T
    found: dict[int, str] = {}
    while cosines.max() >= _MIN_COSINE:
        speaker, name = np.unravel_index(int(cosines.argmax()), cosines.shape)
        found[int(speaker)] = names[name]
        cosines[speaker] = cosines[:, name] = -1.0
    return found
