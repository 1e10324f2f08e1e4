"""Windows as they finish, in any order and from several channels → segments in the order of time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from app.transcription.decoding import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

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


@cache
def _bytes_by_character() -> dict[str, int]:
    """Printable characters stand for themselves, the other bytes for those from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


def token_bytes(written: str) -> bytes:
    """The bytes that a token of the vocabulary stands for; it may end in the middle of a character."""
    by_character = _bytes_by_character()
    if all(character in by_character for character in written):
        return bytes(by_character[character] for character in written)
    return written.encode()  # a special token, which stands for itself
