"""From the tokens of decoded windows to the segments of a transcript, in order of time.

Timestamps divide the tokens of a window into phrases, each of which becomes a segment. An Assembly collects the
segments of windows that finish in any order, from one channel or several, and hands them out in order.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from app.domain.replacements import Replacements
from app.domain.transcript import TokenLogprob
from app.transcription.chinese_script import ChineseScript
from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from app.domain.transcript import Script, Segment

#: Frames of the spectrogram are 10 ms apart, timestamps 20 ms.
SECONDS_PER_FRAME: Final = 0.01
SECONDS_PER_TIMESTAMP: Final = 0.02
_FRAMES_PER_TIMESTAMP: Final = 2
#: Less than this, in milliseconds, comes from computing with binary fractions.
_ROUNDING: Final = 1e-6
#: A rest that the model left untranscribed is decoded again if it is at least this long. The padding after the last
#: speech of a window is shorter.
MIN_REST_FRAMES: Final = 50
#: What OpenAI's API reports for a token of probability 0.
_LOGPROB_OF_ZERO: Final = -9999.0


@dataclass(frozen=True, slots=True)
class Phrase:
    """Tokens between two timestamps, timestamps included.

    ``start`` and ``end`` are seconds from the first frame that was decoded.
    """

    start: float
    end: float
    tokens: tuple[int, ...]


def split_phrases(tokens: Sequence[int], *, first_timestamp: int, frames: int) -> tuple[list[Phrase], int]:
    """Divide ``tokens`` at pairs of timestamps, as OpenAI's ``transcribe.py`` does.

    Return the phrases, and how many of the ``frames`` (10 ms each) are transcribed with them. A last phrase without
    an end timestamp is cut off and left out, to be decoded again from its beginning; unlike in Whisper it is kept if
    less than 0.5 s of audio is left for that. Token ids from ``first_timestamp`` on are timestamps.
    """
    is_timestamp = [token >= first_timestamp for token in tokens]
    borders = [index for index in range(1, len(tokens)) if is_timestamp[index - 1] and is_timestamp[index]]
    frames_done = frames
    if borders and is_timestamp[-2:] != [False, True]:
        last_border = frames_at(tokens[borders[-1] - 1], first_timestamp)
        if last_border > 0 and frames - last_border >= MIN_REST_FRAMES:
            frames_done = last_border
    edges = [0, *borders] if frames_done < frames else [0, *borders, len(tokens)]
    phrases = [
        _phrase(tuple(tokens[start:end]), first_timestamp=first_timestamp, duration=frames * SECONDS_PER_FRAME)
        for start, end in pairwise(edges)
        if not all(is_timestamp[start:end])
    ]
    return phrases, frames_done


def frames_at(token: int, first_timestamp: int) -> int:
    """Return the number of frames before a timestamp."""
    return (token - first_timestamp) * _FRAMES_PER_TIMESTAMP


def _phrase(tokens: tuple[int, ...], *, first_timestamp: int, duration: float) -> Phrase:
    """Return a phrase within 0 and ``duration``; without a timestamp it extends to the edge."""
    start, end = 0.0, duration
    if tokens[0] >= first_timestamp:
        start = (tokens[0] - first_timestamp) * SECONDS_PER_TIMESTAMP
    if len(tokens) > 1 and tokens[-1] >= first_timestamp:
        end = (tokens[-1] - first_timestamp) * SECONDS_PER_TIMESTAMP
    if start >= duration:  # the time is impossible, but the text may still be right
        start = 0.0
    return Phrase(start, max(start, min(end, duration)), tokens)


def in_order(times: Sequence[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    """Return starts and ends, in seconds, between ``low`` and ``high``, each after the one before it.

    Each is at least 20 ms long, or shorter if there is no room for that. Times that comply are only rounded to 1 ms.
    """
    if not times:
        return []
    low, high = math.ceil(low * 1000 - _ROUNDING) / 1000, math.floor(high * 1000 + _ROUNDING) / 1000
    shortest = min(SECONDS_PER_TIMESTAMP, (high - low) / len(times))
    ordered: list[tuple[float, float]] = []
    earliest = low
    for (start, end), (next_start, _) in zip(times, [*times[1:], (math.inf, math.inf)], strict=True):
        start = max(round(start, 3), earliest)
        end = max(min(round(end, 3), round(next_start, 3)), start + shortest)
        ordered.append((start, end))
        earliest = end
    latest = high
    for index in reversed(range(len(ordered))):
        start, end = ordered[index]
        end = min(end, latest)
        latest = min(start, end - shortest)
        ordered[index] = (round(latest, 6), round(end, 6))
    return ordered


def token_logprob(written: str, probability: float) -> TokenLogprob:
    """Return the natural logarithm of a token's ``probability`` (0 to 1); ``written`` is its vocabulary entry."""
    content = token_bytes(written)
    return TokenLogprob(
        token=content.decode(errors="replace"),
        logprob=round(math.log(probability), 6) if probability > 0 else _LOGPROB_OF_ZERO,
        bytes=tuple(content),
    )


def token_bytes(written: str) -> bytes:
    """Return the bytes of a vocabulary entry, which may end in the middle of a UTF-8 character.

    Entries are in the alphabet of GPT-2's ``encoder.py``. Special tokens, which are not, are encoded as they are.
    """
    alphabet = _byte_alphabet()
    if all(character in alphabet for character in written):
        return bytes(alphabet[character] for character in written)
    return written.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """Return the byte for each character: printable ones stand for themselves, the others are shifted to U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


@dataclass(slots=True)
class _Channel:
    """The state of one channel, in samples at 16 kHz.

    Everything before ``searched`` has been cut into windows; ``unfinished`` maps the numbers of windows that are not
    transcribed yet to where they start.
    """

    searched: int = 0
    unfinished: dict[int, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """The sample before which no further segment can start."""
        return min(self.unfinished.values(), default=self.searched)


class Assembly:
    """The segments of one transcription, put in order as its windows finish.

    With ``mark_channels`` each segment and word states its channel. Segments in Chinese are all in one ``script``.
    ``replacements`` are rules for the text of each segment.
    """

    def __init__(
        self,
        channels: int,
        *,
        mark_channels: bool = False,
        script: Script | None = None,
        prompt: str | None = None,
        replacements: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._channels = [_Channel() for _ in range(channels)]
        self._mark_channels = mark_channels
        self._chinese = ChineseScript(script, prompt=prompt)
        self._replacements = Replacements(replacements)
        self._pending: list[_Unnumbered] = []
        self.segments: list[Segment] = []

    @property
    def samples_done(self) -> int:
        """The sample before which no further segment of any channel can start."""
        return min(channel.done for channel in self._channels)

    def add_window(self, channel: int, number: int, *, start: int) -> None:
        """Register a window whose segments will follow; it starts at the sample ``start``."""
        self._channels[channel].unfinished[number] = start

    def set_searched(self, channel: int, samples: int) -> None:
        """Record that all windows that start before this many samples of the channel have been added."""
        self._channels[channel].searched = samples

    def finish_window(
        self, channel: int, number: int, segments: Sequence[Segment], *, is_chinese: bool = False
    ) -> None:
        """Take the segments of a window that is completely transcribed."""
        del self._channels[channel].unfinished[number]
        if self._mark_channels:
            segments = [_with_channel(segment, channel) for segment in segments]
        self._pending += [_Unnumbered(segment, is_chinese=is_chinese) for segment in segments]

    def take(self) -> tuple[Segment, ...]:
        """Return the segments that have become final since the last call, numbered on."""
        done = self.samples_done / SAMPLE_RATE
        self._pending.sort(key=_start)
        count = sum(unnumbered.segment.start < done for unnumbered in self._pending)
        final, self._pending = self._pending[:count], self._pending[count:]
        return self._number(final)

    def take_all(self) -> tuple[Segment, ...]:
        """Return all segments that are left, once every window is finished."""
        final, self._pending = sorted(self._pending, key=_start), []
        return self._number(final)

    def _number(self, final: list[_Unnumbered]) -> tuple[Segment, ...]:
        first = len(self.segments)
        for unnumbered in final:
            segment = self._chinese.unify(unnumbered.segment) if unnumbered.is_chinese else unnumbered.segment
            self.segments.append(replace(self._replacements.apply(segment), id=len(self.segments)))
        return tuple(self.segments[first:])


@dataclass(frozen=True, slots=True)
class _Unnumbered:
    segment: Segment
    _: KW_ONLY
    is_chinese: bool


def _start(unnumbered: _Unnumbered) -> float:
    return unnumbered.segment.start


def _with_channel(segment: Segment, channel: int) -> Segment:
    words = tuple(replace(word, channel=channel) for word in segment.words)
    return replace(segment, channel=channel, words=words)
