"""Windows as they finish, in any order and from several channels → segments in the order of time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from app.transcription.decoding import SAMPLE_RATE

if TYPE_CHECKING:
    from app.domain.transcript import Segment
    from app.transcription.window import Window


@dataclass(slots=True)
class _Channel:
    """``scanned`` counts the samples that have been searched for windows; ``open`` are where unfinished ones begin."""

    scanned: int = 0
    open: dict[int, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Up to which sample nothing more will come."""
        return min(self.open.values(), default=self.scanned)


class Assembly:
    """Collects the segments of one request; those that nothing can precede any more are handed out in order.

    ``marked`` has each say which channel it is of.
    """

    def __init__(self, channels: int, *, marked: bool = False) -> None:
        self._channels = [_Channel() for _ in range(channels)]
        self._marked = marked
        self._waiting: list[Segment] = []
        self.segments: list[Segment] = []

    @property
    def samples_done(self) -> int:
        """Up to which sample all channels are finished."""
        return min(channel.done for channel in self._channels)

    def expect(self, window: Window) -> None:
        """A window has been found and goes to the model."""
        self._channels[window.channel].open[window.number] = window.start

    def scanned(self, channel: int, samples: int) -> None:
        """Everything before that many samples of the channel has been searched."""
        self._channels[channel].scanned = samples

    def finish(self, window: Window) -> None:
        del self._channels[window.channel].open[window.number]
        self._waiting += [_marked(one, window.channel) if self._marked else one for one in window.segments]

    def take(self) -> tuple[Segment, ...]:
        """The further segments that are in place now, numbered on."""
        done = self.samples_done / SAMPLE_RATE
        self._waiting.sort(key=lambda segment: segment.start)
        count = sum(segment.start < done for segment in self._waiting)
        found, self._waiting = self._waiting[:count], self._waiting[count:]
        return self._numbered(found)

    def take_all(self) -> tuple[Segment, ...]:
        """What is left at the end."""
        found, self._waiting = sorted(self._waiting, key=lambda segment: segment.start), []
        return self._numbered(found)

    def _numbered(self, found: list[Segment]) -> tuple[Segment, ...]:
        first = len(self.segments)
        numbered = [replace(segment, id=first + index) for index, segment in enumerate(found)]
        self.segments += numbered
        return tuple(numbered)


def _marked(segment: Segment, channel: int) -> Segment:
    words = tuple(replace(word, channel=channel) for word in segment.words)
    return replace(segment, channel=channel, words=words)
