"""Transcripts as paragraphs and sentences: where they end, their speakers and their times."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.formats import Rendering, ResponseFormat, render
from app.domain.paragraphs import LONG_SECONDS, PAUSE_SECONDS, paragraphs
from app.domain.speakers import parts
from app.domain.transcript import Segment, Transcript, Word
from app.jobs.serializers import to_json
from tests.domain.strategies import conversations, transcripts, unhurried
from tests.domain.test_formats import a_transcript
from tests.support.segments import a_segment

if TYPE_CHECKING:
    from collections.abc import Iterable


def spoken(text: str, start: float, *, seconds: float = 0.5, speaker: str | None = None) -> Segment:
    """Return a segment whose words take ``seconds`` each, without pauses."""
    texts = [f" {word}" for word in text.split()]
    words = tuple(
        Word(
            word=word,
            start=start + index * seconds,
            end=start + (index + 1) * seconds,
            probability=0.9,
            speaker=speaker,
        )
        for index, word in enumerate(texts)
    )
    return replace(a_segment("".join(texts), start, words[-1].end, words=words), speaker=speaker)


def shown(transcript: Transcript) -> list[list[tuple[float, float, str]]]:
    return [
        [(sentence.start, sentence.end, sentence.text) for sentence in paragraph.sentences]
        for paragraph in paragraphs(transcript)
    ]


def test_sentences_have_the_times_of_their_words() -> None:
    transcript = a_transcript(spoken("Hello there. How are", 1.0), spoken("you? Fine.", 3.5))
    assert shown(transcript) == [[(1.0, 2.0, " Hello there."), (2.0, 4.0, " How are you?"), (4.0, 4.5, " Fine.")]]


def test_pause_ends_a_paragraph_even_inside_a_sentence() -> None:
    almost = spoken("I mean", 1.0), spoken("this.", 2.0 + PAUSE_SECONDS - 0.01)
    assert [len(sentences) for sentences in shown(a_transcript(*almost))] == [1]
    apart = spoken("I mean", 1.0), spoken("this.", 2.0 + PAUSE_SECONDS)
    assert shown(a_transcript(*apart)) == [[(1.0, 2.0, " I mean")], [(4.0, 4.5, " this.")]]


def test_long_paragraph_ends_with_its_sentence() -> None:
    text = " ".join(["One two three four."] * 20)  # a sentence takes 4 s
    transcript = a_transcript(spoken(text, 0.0, seconds=1.0))
    lengths = [(paragraph.start, len(paragraph.sentences)) for paragraph in paragraphs(transcript)]
    assert lengths == [(0.0, 8), (32.0, 8), (64.0, 4)]
    assert 32.0 >= LONG_SECONDS > 28.0


def test_long_text_without_punctuation_ends_with_its_segments() -> None:
    segments = [spoken("and so on", 3.0 * number, seconds=1.0) for number in range(22)]
    assert [len(sentences) for sentences in shown(a_transcript(*segments))] == [10, 10, 2]
    assert [len(sentences) for sentences in shown(a_transcript(*segments[:10]))] == [1]


def test_change_of_speaker_ends_a_paragraph_inside_a_segment() -> None:
    words = spoken("Ready? Yes. Go", 1.0, speaker="A").words
    segment = a_segment(" Ready? Yes. Go", 1.0, 2.5, words=(words[0], replace(words[1], speaker="Ben"), words[2]))
    transcript = a_transcript(replace(segment, speaker="A"), spoken("on.", 2.5, speaker="A"))
    assert [
        (paragraph.speaker, paragraph.start, paragraph.end, paragraph.text) for paragraph in paragraphs(transcript)
    ] == [
        ("A", 1.0, 1.5, " Ready?"),
        ("Ben", 1.5, 2.0, " Yes."),
        ("A", 2.0, 3.0, " Go on."),
    ]


def test_channels_have_paragraphs_of_their_own_in_order_of_time() -> None:
    first, second = spoken("Hello.", 1.0), spoken("So there.", 2.0)
    transcript = a_transcript(
        replace(first, channel=0), replace(spoken("Hi.", 1.2), channel=1), replace(second, channel=0)
    )
    assert [(paragraph.channel, paragraph.text) for paragraph in paragraphs(transcript)] == [
        (0, " Hello. So there."),
        (1, " Hi."),
    ]


def test_times_without_words_are_in_proportion_to_the_text() -> None:
    transcript = a_transcript(a_segment(" One. Three.", 10.0, 21.0), a_segment(" And", 21.0, 22.0, number=1))
    assert shown(transcript) == [[(10.0, 14.0, " One."), (15.0, 21.0, " Three."), (21.0, 22.0, " And")]]


def test_word_that_holds_the_end_of_a_sentence_is_divided() -> None:
    word = Word(word="好。我", start=1.0, end=2.0, probability=0.9)
    assert shown(a_transcript(a_segment("好。我", 1.0, 2.0, words=(word,)))) == [
        [(1.0, 1.667, "好。"), (1.667, 2.0, "我")]
    ]


def test_blank_segment_neither_ends_a_paragraph_nor_is_lost() -> None:
    blank = replace(a_segment("\n", 2.0, 9.0), speaker="B")
    transcript = a_transcript(spoken("Well.", 1.0, speaker="A"), blank, spoken("Yes.", 2.0, speaker="A"))
    assert [paragraph.text for paragraph in paragraphs(transcript)] == [" Well.\n Yes."]
    assert paragraphs(a_transcript(blank)) == ()


def with_channels(transcript: Transcript, channels: Iterable[int | None]) -> Transcript:
    segments = (
        replace(segment, channel=channel) for segment, channel in zip(transcript.segments, channels, strict=False)
    )
    return replace(transcript, segments=tuple(segments))


@unhurried
@given(transcripts() | conversations(), st.lists(st.sampled_from([0, 1]), min_size=8, max_size=8) | st.just([None] * 8))
def test_paragraphs_are_the_text_in_order_without_overlaps(transcript: Transcript, channels: list[int | None]) -> None:
    transcript = with_channels(transcript, channels)
    found = paragraphs(transcript)
    assert [paragraph.start for paragraph in found] == sorted(paragraph.start for paragraph in found)
    for channel in {segment.channel for segment in transcript.segments}:
        of_channel = [paragraph for paragraph in found if paragraph.channel == channel]
        sentences = [sentence for paragraph in of_channel for sentence in paragraph.sentences]
        text = "".join(segment.text for segment in transcript.segments if segment.channel == channel)
        assert "".join(sentence.text for sentence in sentences).strip() == text.strip()
        assert all(sentence.start <= sentence.end and sentence.text.strip() for sentence in sentences)
        assert all(before.end <= after.start for before, after in pairwise(sentences))


@unhurried
@given(conversations())
def test_each_paragraph_has_the_speaker_of_its_words(transcript: Transcript) -> None:
    pieces = [part for segment in transcript.segments for part in parts(segment) if part.text.strip()]
    turns = [(speaker, "".join(part.text for part in same)) for speaker, same in groupby(pieces, attrgetter("speaker"))]
    found = [
        (speaker, "".join(paragraph.text for paragraph in same))
        for speaker, same in groupby(paragraphs(transcript), attrgetter("speaker"))
    ]
    assert without_spaces(found) == without_spaces(turns)  # what is blank has no turn of its own


def without_spaces(turns: Iterable[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    return [(speaker, "".join(text.split())) for speaker, text in turns]


def body(transcript: Transcript, format_: ResponseFormat, *, utterances: bool = True) -> dict[str, Any]:
    content = render(transcript, Rendering(format=format_, utterances=utterances), extras={})
    assert isinstance(content, dict)
    value: dict[str, Any] = json.loads(to_json(content))
    return value


def test_utterances_are_in_verbose_json_on_request() -> None:
    transcript = a_transcript(replace(spoken("Hello there. Bye.", 1.0, speaker="Anna"), channel=0))
    assert body(transcript, ResponseFormat.VERBOSE_JSON)["utterances"] == [
        {
            "start": 1.0,
            "end": 2.5,
            "text": "Hello there. Bye.",
            "channel": 0,
            "speaker": "Anna",
            "sentences": [
                {"start": 1.0, "end": 2.0, "text": "Hello there."},
                {"start": 2.0, "end": 2.5, "text": "Bye."},
            ],
        }
    ]
    plain = a_transcript(spoken("Hello.", 1.0))
    (utterance,) = body(plain, ResponseFormat.VERBOSE_JSON)["utterances"]
    assert utterance.keys() == {"start", "end", "text", "sentences"}


@pytest.mark.parametrize("format_", [ResponseFormat.VERBOSE_JSON, ResponseFormat.DIARIZED_JSON, ResponseFormat.JSON])
def test_other_bodies_have_no_utterances(format_: ResponseFormat) -> None:
    transcript = a_transcript(spoken("Hello.", 1.0))
    assert "utterances" not in body(transcript, format_, utterances=False)
    assert ("utterances" in body(transcript, format_)) == (format_ is not ResponseFormat.JSON)


def test_utterances_of_diarized_json_have_its_speakers() -> None:
    transcript = a_transcript(replace(spoken("Hi.", 1.0), channel=0), replace(spoken("Yes?", 2.0), channel=1))
    content = body(transcript, ResponseFormat.DIARIZED_JSON)
    speakers = [segment["speaker"] for segment in content["segments"]]
    assert [utterance["speaker"] for utterance in content["utterances"]] == speakers == ["A", "B"]
    assert ["speaker" in utterance for utterance in body(transcript, ResponseFormat.VERBOSE_JSON)["utterances"]] == [
        False
    ] * 2
