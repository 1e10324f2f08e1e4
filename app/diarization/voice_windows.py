"""The parts of a chunk in which one person speaks alone, cut into windows that are long enough to know a voice by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from app.diarization.chunks import frame_edge
from app.diarization.models import CHUNK_SAMPLES, SAMPLE_RATE, SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_WINDOW_SAMPLES: Final = 2 * SAMPLE_RATE
_STEP_SAMPLES: Final = 1 * SAMPLE_RATE
#: The shortest window, 0.22 s, has 20 frames of a spectrogram. Even that says more of a voice than nothing.
_MIN_SAMPLES: Final = SAMPLE_RATE * 22 // 100
#: A window can reach this far, 0.5 s, into the part of a chunk that belongs to its neighbour.
_BEYOND_SAMPLES: Final = SAMPLE_RATE // 2


class VoiceWindow(NamedTuple):
    """Samples ``start`` to ``end`` of a chunk, in which only the local speaker ``slot`` speaks."""

    slot: int
    start: int
    end: int


def voice_windows(activity: npt.NDArray[np.bool_], own: tuple[int, int]) -> Iterator[VoiceWindow]:
    """Yield the windows of a chunk, at most 2 s long and one a second.

    ``activity`` says which slots speak in each frame, shape ``(589, 3)``. ``own`` are the frames that are the chunk's
    own: the first one, and the one after the last.
    """
    is_alone = activity.sum(axis=1) == 1
    own_start, own_end = frame_edge(own[0]), frame_edge(own[1])
    for slot in range(SLOTS):
        for first, last in runs(activity[:, slot] & is_alone).tolist():
            if last <= own[0] or first >= own[1]:
                continue
            start = max(frame_edge(first), own_start - _BEYOND_SAMPLES, 0)
            end = min(frame_edge(last), own_end + _BEYOND_SAMPLES, CHUNK_SAMPLES)
            yield from (VoiceWindow(slot, *span) for span in _split(start, end))


def runs(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return the start and the end of each sequence of true values, shape ``(n, 2)``."""
    edges = np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def _split(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield windows from ``start`` to ``end``; the last one is as long as the others if it can be."""
    if end - start < _MIN_SAMPLES:
        return
    while start + _WINDOW_SAMPLES < end:
        yield start, start + _WINDOW_SAMPLES
        start += _STEP_SAMPLES
    yield start, end
