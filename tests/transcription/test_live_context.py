"""The context of live audio keeps whole phrases with their sound, while nothing about them is doubtful."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.transcript import Segment, Task, Transcript, TranscriptionOptions
from app.transcription.live_context import NO_CONTEXT, LiveContext
from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    from app.transcription.vad import Samples

OPTIONS = TranscriptionOptions()


def numbered(seconds: float) -> Samples:
    """Return samples that are all different."""
    return np.arange(round(seconds * SAMPLE_RATE)).astype(np.int16)


def transcript(*segments: tuple[float, float, str], language: str = "english", uncertain: bool = False) -> Transcript:
    """Return a transcript of segments with a start, an end, and a text, whose words are tokens."""
    return Transcript(
        task=Task.TRANSCRIBE,
        language=language,
        duration=segments[-1][1] if segments else 1.0,
        segments=tuple(
            Segment(
                id=number,
                seek=0,
                start=start,
                end=end,
                text=f" {text}",
                tokens=tuple(range(len(text.split()))),
                temperature=0.0,
                avg_logprob=-0.1,
                compression_ratio=1.0,
                no_speech_prob=0.0,
                uncertain=uncertain,
            )
            for number, (start, end, text) in enumerate(segments)
        ),
    )


def after(*utterances: tuple[float, Transcript]) -> LiveContext:
    """Return the context after utterances of these lengths."""
    context = NO_CONTEXT
    for seconds, text in utterances:
        context = context.followed_by(numbered(seconds), text, OPTIONS)
    return context


def times(context: LiveContext) -> list[tuple[float, float]]:
    return [(round(phrase.start, 3), round(phrase.end, 3)) for phrase in context.phrases]


def test_context_ends_where_the_next_audio_begins() -> None:
    context = after((4.0, transcript((0.2, 1.0, "a"), (1.5, 3.0, "b"))), (2.0, transcript((0.5, 1.5, "c"))))
    assert times(context) == [(-5.8, -5.0), (-4.5, -3.0), (-1.5, -0.5)]
    assert context.seconds == pytest.approx(6.0)
    assert context.text == "c"
    assert [round(phrase.start, 3) for phrase in context.phrases_from_start] == [0.2, 1.5, 4.5]


def test_pauses_are_between_phrases() -> None:
    context = after((4.0, transcript((0.2, 1.0, "a"), (1.0, 3.0, "b"))))
    span = context.span
    assert (span.start, span.end) == (-4 * SAMPLE_RATE, 0)
    milliseconds = [(pause.start // 16, pause.end // 16) for pause in span.pauses]
    assert milliseconds == [(-4_000, -3_800), (-1_000, 0)]


def test_phrases_that_do_not_fit_are_left_out_with_their_sound() -> None:
    context = after((10.0, transcript((0.0, 4.0, "a"), (4.1, 6.0, "b"), (7.0, 9.5, "c"))))
    shorter = context.last(7 * SAMPLE_RATE)
    assert times(shorter) == [(-5.9, -4.0), (-3.0, -0.5)]
    assert shorter.seconds == pytest.approx(6.0, abs=0.02)  # "a" ends there
    assert np.array_equal(shorter.samples, context.samples[-len(shorter.samples) :])
    assert context.last(SAMPLE_RATE) is NO_CONTEXT


@given(
    utterances=st.lists(
        st.tuples(st.integers(1_600, 480_000), st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True)),
        min_size=1,
        max_size=8,
    ),
    count=st.integers(0, 480_000),
)
@settings(max_examples=200)
def test_sound_of_the_context_is_that_of_its_phrases(utterances: list[tuple[int, list[float]]], count: int) -> None:
    context, said = NO_CONTEXT, np.zeros(0, np.int16)
    for samples, shares in utterances:
        times = sorted(int(share * samples) / SAMPLE_RATE for share in shares)
        segments = [(start, end, "word") for start, end in zip(times[::2], times[1::2], strict=False)]
        audio = np.arange(len(said), len(said) + samples).astype(np.int16)
        said = np.concatenate([said, audio])
        context = context.followed_by(audio, transcript(*segments), OPTIONS)
        for kept, limit in ((context, 24 * SAMPLE_RATE), (context.last(count), count)):
            assert len(kept.samples) <= limit
            assert len(kept.samples) % 320 == 0  # so that it ends at one of Whisper's timestamps
            assert np.array_equal(kept.samples, said[len(said) - len(kept.samples) :])
            times = [time for phrase in kept.phrases for time in (phrase.start, phrase.end)]
            assert times == sorted(times)
            assert all(-kept.seconds <= time <= 1e-9 for time in times)


def test_context_is_limited() -> None:
    context = after(*[(9.0, transcript((0.5, 8.5, "word " * 10)))] * 5)
    assert len(context.phrases) == 2
    assert context.seconds <= 24
    context = after(*[(1.0, transcript((0.1, 0.9, "many " * 50)))] * 5)
    assert len(context.phrases) == 2


def test_doubtful_text_is_no_context() -> None:
    before = after((2.0, transcript((0.0, 2.0, "a"))))
    assert before.followed_by(numbered(1.0), transcript((0.0, 1.0, "b"), uncertain=True), OPTIONS) is NO_CONTEXT


def test_silence_changes_nothing() -> None:
    before = after((2.0, transcript((0.0, 2.0, "a"))))
    assert before.followed_by(numbered(1.0), transcript(), OPTIONS) is before


def test_context_is_in_one_language_and_of_the_same_options() -> None:
    before = after((2.0, transcript((0.0, 2.0, "a"))))
    german = before.followed_by(numbered(1.0), transcript((0.0, 1.0, "b"), language="german"), OPTIONS)
    assert (times(german), german.language) == ([(-1.0, 0.0)], "de")
    others = replace(OPTIONS, prompt="c")
    assert times(before.followed_by(numbered(1.0), transcript((0.0, 1.0, "b")), others)) == [(-1.0, 0.0)]


def test_continuation_says_something_new_and_certain() -> None:
    context = after((2.0, transcript((0.0, 2.0, "one two three four"))))
    assert context.is_continued_by(transcript((0.0, 1.0, "five")))
    assert not context.is_continued_by(transcript())
    assert not context.is_continued_by(transcript((0.0, 1.0, "five"), uncertain=True))
    assert not context.is_continued_by(transcript((0.0, 1.0, "one two three four")))
    assert after((1.0, transcript((0.0, 1.0, "yes")))).is_continued_by(transcript((0.0, 1.0, "yes")))
