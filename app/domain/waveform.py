"""The waveform of a recording, to draw it without decoding the recording again."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

#: The peaks of a second.
PEAKS_PER_SECOND: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """The peaks of each channel, ``PEAKS_PER_SECOND`` of them, from 0 to 255, which is the loudest of the recording.

    All channels have the same number of peaks. ``duration`` is in seconds.
    """

    duration: float
    channels: tuple[bytes, ...]

    def points(self, count: int) -> list[list[int]]:
        """Return the highest peak of each of ``count`` equal parts of each channel, or all peaks if there are fewer."""
        peaks = len(self.channels[0])
        count = min(count, peaks)
        edges = [number * peaks // count for number in range(count + 1)] if count else [0]
        return [[max(channel[start:end]) for start, end in pairwise(edges)] for channel in self.channels]

    def to_dict(self) -> dict[str, Any]:
        """Return a value that JSON can represent."""
        return {"duration": self.duration, "channels": [base64.b64encode(one).decode() for one in self.channels]}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Return the waveform that :meth:`to_dict` was called on."""
        return cls(duration=stored["duration"], channels=tuple(map(base64.b64decode, stored["channels"])))
