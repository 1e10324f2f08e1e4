"""The speakers of local slots, from the windows in which they speak alone, or else from neighbouring chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from app.diarization.chunks import HOP_FRAMES
from app.diarization.models import CHUNK_FRAMES, SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from app.diarization.heard import Heard

    Array = npt.NDArray[np.float32]
    Activity = npt.NDArray[np.bool_]

#: A slot is that of a neighbour if both are active for this share of the time in which one of them is.
_MIN_TOGETHER: Final = 0.5
_SHARED_FRAMES: Final = CHUNK_FRAMES - HOP_FRAMES


class SlotSpeakers:
    """The probabilities of the speakers for each slot of some chunks.

    ``windows`` are rows of :attr:`Heard.windows`, ``likely`` the probabilities of the speakers of each.
    """

    def __init__(self, heard: Heard, windows: npt.NDArray[np.int32], likely: Array) -> None:
        self._heard = heard
        sums: dict[int, dict[int, Array]] = {}
        for (chunk, slot, start, end), probabilities in zip(windows.tolist(), likely, strict=True):
            of_chunk = sums.setdefault(chunk, {})
            of_chunk[slot] = of_chunk.get(slot, np.float32(0)) + probabilities * (end - start)
        self._alone = {
            chunk: {slot: total / total.sum() for slot, total in of_chunk.items()} for chunk, of_chunk in sums.items()
        }

    def of(self, chunk: int, activity: Activity) -> dict[int, Array]:
        """Return the probabilities of the speakers, shape ``(speakers,)``, of each slot about which something is known.

        A slot that never speaks alone in its chunk may do so in a neighbour, half of which is the same time.
        """
        known = dict(self._alone.get(chunk, {}))
        for slot in range(SLOTS):
            if slot not in known and activity[:, slot].any():
                others = {int(likely.argmax()) for likely in known.values()}
                candidates = [
                    (together, int(likely.argmax()), likely)
                    for neighbour in (chunk - 1, chunk + 1)
                    for together, likely in self._together(activity[:, slot], neighbour, is_before=neighbour < chunk)
                    if int(likely.argmax()) not in others
                ]
                if candidates:
                    known[slot] = max(candidates, key=lambda candidate: candidate[:2])[2]
        return known

    def _together(
        self, is_active: npt.NDArray[np.bool_], neighbour: int, *, is_before: bool
    ) -> Iterator[tuple[float, Array]]:
        """Yield the slots of a neighbour that are mostly active when a slot is, with the share of that time."""
        slots = self._alone.get(neighbour, {})
        if not slots:
            return
        first, last = slice(0, _SHARED_FRAMES), slice(HOP_FRAMES, None)
        frames = is_active[first if is_before else last]
        activity = self._heard.activity(neighbour)[last if is_before else first]
        for slot, likely in slots.items():
            either = (frames | activity[:, slot]).sum()
            together = float((frames & activity[:, slot]).sum() / max(1, either))
            if together >= _MIN_TOGETHER:
                yield together, likely
