"""The words of transcripts and their places in the text."""

from __future__ import annotations

import pytest
from hypothesis import given

from app.domain.transcript import Segment, Transcript, Word
from tests.domain.strategies import transcripts, unhurried


@unhurried
@given(transcripts())
def test_text_and_words_are_those_of_the_segments_in_order(transcript: Transcript) -> None:
    assert transcript.text == "".join(segment.text for segment in transcript.segments).strip()
    assert list(transcript.words) == [word for segment in transcript.segments for word in segment.words]


def a_segment(text: str, *words: str) -> Segment:
    return Segment(
        id=0,
        seek=0,
        start=0.0,
        end=1.0,
        text=text,
        tokens=(),
        temperature=0.0,
        avg_logprob=0.0,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        words=tuple(Word(word=word, start=0.0, end=1.0, probability=1.0) for word in words),
    )


@pytest.mark.parametrize(
    ("text", "words", "offsets"),
    [
        (" the cat, the dog", (" the", " cat,", " the", " dog"), (1, 5, 10, 14)),
        ("你好,你", ("你", "好,", "你"), (0, 1, 3)),
        (" 😀 é 😀!", (" 😀", " é", " 😀!"), (1, 3, 5)),
        (" a b", (" a", " \N{REPLACEMENT CHARACTER}", " b"), (1, 2, 3)),
        ("", ("a",), (0,)),
    ],
)
def test_offsets_of_words_are_their_places_in_the_text(
    text: str, words: tuple[str, ...], offsets: tuple[int, ...]
) -> None:
    assert a_segment(text, *words).word_offsets == offsets


@unhurried
@given(transcripts())
def test_offsets_ascend_within_the_text(transcript: Transcript) -> None:
    for segment in transcript.segments:
        offsets = segment.word_offsets
        assert len(offsets) == len(segment.words)
        assert list(offsets) == sorted(offsets)
        assert all(0 <= offset <= len(segment.text) for offset in offsets)
