"""The tokens of a window → phrases with times.

Whisper writes ``<|0.40|> hello<|1.80|><|2.10|> this ...``: two timestamps in a row end one phrase and begin the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Frames of the spectrogram are 10 ms apart, timestamps 20 ms.
SECONDS_PER_FRAME: Final = 0.01
SECONDS_PER_TIMESTAMP: Final = 0.02
_FRAMES_PER_TIMESTAMP: Final = 2
#: What the model left untranscribed at the end of a window is worth another pass if it is longer than this. The
#: padding after the last speech is shorter.
_MIN_REST_FRAMES: Final = 50


@dataclass(frozen=True, slots=True)
class Phrase:
    """``start`` and ``end`` are seconds from where decoding began; ``tokens`` include the timestamps."""

    start: float
    end: float
    tokens: tuple[int, ...]


def phrases(tokens: Sequence[int], *, first_timestamp: int, frames: int) -> tuple[list[Phrase], int]:
    """The phrases in ``tokens``, and up to which of the ``frames`` the audio has been transcribed with them.

    A phrase without an end is cut off: it is transcribed anew from its beginning, unless nothing worth it is left.
    """

    def is_timestamp(token: int) -> bool:
        return token >= first_timestamp

    borders = [
        index + 1 for index, (one, other) in enumerate(pairwise(tokens)) if is_timestamp(one) and is_timestamp(other)
    ]
    ended = len(tokens) > 1 and is_timestamp(tokens[-1]) and not is_timestamp(tokens[-2])
    done = frames
    if borders and not ended:
        done = (tokens[borders[-1] - 1] - first_timestamp) * _FRAMES_PER_TIMESTAMP
        if done <= 0 or frames - done < _MIN_REST_FRAMES:
            done = frames
    whole = done == frames
    edges = [0, *borders, len(tokens)] if whole else [0, *borders]
    found = []
    for start, end in pairwise(edges):
        part = tuple(tokens[start:end])
        if any(not is_timestamp(token) for token in part):
            found.append(_phrase(part, first_timestamp, frames * SECONDS_PER_FRAME))
    return found, done


def _phrase(tokens: tuple[int, ...], first_timestamp: int, duration: float) -> Phrase:
    """A phrase that does not say when it begins or ends reaches to the edge; none reaches beyond it."""

    def seconds(token: int, otherwise: float) -> float:
        return (token - first_timestamp) * SECONDS_PER_TIMESTAMP if token >= first_timestamp else otherwise

    start = seconds(tokens[0], 0.0)
    end = seconds(tokens[-1], duration) if len(tokens) > 1 else duration
    if start >= duration:  # the model was wrong about the time, not therefore about the text
        start = 0.0
    return Phrase(start, max(start, min(end, duration)), tokens)
