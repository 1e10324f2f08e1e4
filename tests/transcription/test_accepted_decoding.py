"""Segments and words never overlap, end before they start or leave the audio, whatever the model says."""

from __future__ import annotations

from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from hypothesis import given
from hypothesis import strategies as st

from app.transcription.accepted_decoding import AcceptedDecoding
from app.transcription.fallback import Decoding
from app.transcription.segments import Phrase, in_order
from app.transcription.vad import Span
from app.transcription.window import Timeline
from tests.domain.strategies import unhurried

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import Segment

_END_OF_TEXT: Final = 100
_COMMA: Final = 0
_TIMESTAMP: Final = 200


class OneWordPerToken:
    """A tokenizer whose tokens are words, or punctuation."""

    eot = _END_OF_TEXT
    task, translate = 1, 2
    language_code = "en"

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._word(token) for token in tokens if token < _END_OF_TEXT)

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        return [self._word(token) for token in tokens], [[token] for token in tokens]

    def _word(self, token: int) -> str:
        return "," if token == _COMMA else f" w{token}"


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Draw the spans of a window of up to 30 s, and pauses that may extend beyond them."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 50_000), st.integers(160, 120_000)), min_size=1, max_size=4))
    edges = list(accumulate(length for gap_and_span in lengths for length in gap_and_span))
    borders = sorted(draw(st.sets(st.integers(0, edges[-1] + 10_000), max_size=8)))
    return Timeline(
        tuple(Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)),
        tuple(Span(start, end) for start, end in zip(borders[::2], borders[1::2], strict=False)),
    )


@st.composite
def decodings(draw: st.DrawFn) -> AcceptedDecoding:
    timeline = draw(timelines())
    frames = sum(span.samples for span in timeline.spans) // 160
    seek = draw(st.integers(0, frames - 1))
    frames_done = draw(st.integers(1, frames - seek))
    seconds = st.floats(0, (frames - seek) / 100)
    phrases = [
        Phrase(min(times), max(times), (_TIMESTAMP, *draw(st.lists(st.integers(0, 3), max_size=6)), _TIMESTAMP))
        for times in draw(st.lists(st.tuples(seconds, seconds), max_size=6))
    ]
    count = sum(len(phrase.tokens) - 2 for phrase in phrases)
    positions = draw(st.lists(st.integers(0, 1500), min_size=count + 1, max_size=count + 1))
    positions = sorted(positions) if draw(st.booleans()) else positions
    alignment = SimpleNamespace(alignments=list(enumerate(positions)), text_token_probs=[0.5] * count)
    return AcceptedDecoding(
        decoding=Decoding(tokens=(), text="", temperature=0.0, avg_logprob=-0.1, no_speech_prob=0.1),
        temperature=0.0,
        uncertain=False,
        phrases=phrases,
        frames_done=frames_done,
        tokenizer=OneWordPerToken(),
        seek=seek,
        timeline=timeline,
        word_timestamps=draw(st.booleans()),
        token_logprobs=False,
        alignment=alignment if draw(st.booleans()) else None,
        alignment_lag=draw(st.floats(-0.2, 0.2)),
    )


def check_times(segments: Sequence[Segment], *, low: float, high: float) -> None:
    assert all(low - 1e-6 <= segment.start < segment.end <= high + 1e-6 for segment in segments)
    assert all(earlier.end <= later.start for earlier, later in pairwise(segments))
    words = [word for segment in segments for word in segment.words]
    assert all(word.start < word.end for word in words)
    assert all(earlier.end <= later.start for earlier, later in pairwise(words))
    for segment in segments:
        assert all(segment.start <= word.start and word.end <= segment.end for word in segment.words)


@unhurried
@given(decodings())
def test_times_are_in_order_and_within_what_was_decoded(decoding: AcceptedDecoding) -> None:
    segments = decoding.segments()
    low, high = decoding.timeline.times(decoding.seek / 100, (decoding.seek + decoding.frames_done) / 100)
    check_times(segments, low=low, high=high)
    for segment in segments:
        assert not segment.words or "".join(word.word for word in segment.words) == segment.text
    expected = [
        phrase
        for phrase in decoding.phrases
        if phrase.start < phrase.end and any(_COMMA < token < _END_OF_TEXT for token in phrase.tokens)
    ]
    assert len(segments) == len(expected)


@given(
    st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 40)), max_size=30),
    st.floats(0, 10),
    st.floats(0.01, 30),
)
def test_any_times_are_brought_into_order(times: list[tuple[float, float]], low: float, length: float) -> None:
    ordered = in_order(times, low, low + length)
    assert len(ordered) == len(times)
    assert all(low - 1e-6 <= start < end <= low + length + 1e-6 for start, end in ordered)
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(ordered))


def test_times_in_order_are_only_rounded() -> None:
    assert in_order([(0.5004, 1.0), (1.0, 1.2346)], 0.0, 2.0) == [(0.5, 1.0), (1.0, 1.235)]
