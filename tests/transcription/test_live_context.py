"""The context of live audio keeps whole phrases with their sound, while nothing about them is doubtful."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

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


@pytest.mark.parametrize("samples", [SAMPLE_RATE * 5 + 1, SAMPLE_RATE * 5 + 319, SAMPLE_RATE * 20 + 7])
def test_context_is_a_multiple_of_timestamps(samples: int) -> None:
    context = NO_CONTEXT.followed_by(np.zeros(samples, np.int16), transcript((0.0, 2.0, "a"), (2.0, 4.9, "b")), OPTIONS)
    assert len(context.samples) % 320 == 0
    assert len(context.samples) / SAMPLE_RATE >= -context.phrases[0].start - 0.02


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
