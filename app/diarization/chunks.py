"""The grid of chunks over a recording: each is 10 s long, and they begin every 4.995 s.

That is a whole number of the model's frames, so that chunks that overlap have the same frames. The frames in the middle
of a chunk are its own; the others belong to its neighbours, which see more of what is around them.
"""

from __future__ import annotations

from typing import Final

from app.diarization.models import CHUNK_FRAMES, FIRST_FRAME_CENTRE, FRAME_SAMPLES

HOP_FRAMES: Final = 296
HOP_SAMPLES: Final = HOP_FRAMES * FRAME_SAMPLES
_OWN_START: Final = (CHUNK_FRAMES - HOP_FRAMES + 1) // 2


def frame_edge(frame: int) -> int:
    """Return the sample at which a frame begins, half a frame before its centre."""
    return frame * FRAME_SAMPLES + FIRST_FRAME_CENTRE - FRAME_SAMPLES // 2


def own_frames(*, is_first: bool, is_last: bool) -> tuple[int, int]:
    """Return the first of the frames that are a chunk's own, and the frame after the last of them."""
    return 0 if is_first else _OWN_START, CHUNK_FRAMES if is_last else _OWN_START + HOP_FRAMES
