"""Corrections of a transcript: what they change, and which are accepted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.corrections import NO_CORRECTIONS, Corrections, checked, corrected
from app.domain.errors import InvalidRequest
from app.domain.transcript import TokenLogprob, Transcript
from tests.domain.strategies import transcripts, unhurried
from tests.support.fake_transcriber import GREETING


def test_corrected_segment_keeps_only_what_is_still_true() -> None:
    first, second = GREETING.segments
    first = replace(first, uncertain=True, logprobs=(TokenLogprob(token=" Gr", logprob=-1.0, bytes=(32, 71, 114)),))
    original = replace(GREETING, segments=(first, second))
    transcript = corrected(original, Corrections(texts={0: " Hallo"}, edited_at=1.0))
    assert transcript.text == "Hallo an alle."
    assert transcript.segments[1] == second
    changed = transcript.segments[0]
    assert (changed.tokens, changed.logprobs, changed.uncertain) == ((), (), False)
    assert (changed.start, changed.end, changed.avg_logprob) == (first.start, first.end, first.avg_logprob)
    assert [word.word for word in changed.words] == [" Hallo"]


def test_empty_text_removes_its_segment() -> None:
    transcript = corrected(GREETING, Corrections(texts={0: ""}, edited_at=1.0))
    assert [segment.id for segment in transcript.segments] == [1]
    assert transcript.text == "an alle."


def test_segment_without_word_times_gets_none() -> None:
    (first, *_) = GREETING.segments
    original = replace(GREETING, segments=(replace(first, words=()),))
    assert corrected(original, Corrections(texts={0: " Hallo Welt"}, edited_at=1.0)).words == ()


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("Hallo", " Hallo"),
        ("  Hallo\n\nWelt\t\x00!\u2028", " Hallo Welt !"),
        ("\u200fשלום\u00a0", " \u200fשלום"),
        ("😀", " 😀"),
        (" \n ", ""),
    ],
)
def test_text_is_one_line_with_the_space_of_its_segment(text: str, stored: str) -> None:
    assert checked({0: text}, GREETING) == {0: stored}


@pytest.mark.parametrize("text", [" Grüße", "Grüße", "Grüße \n"])
def test_same_text_is_no_correction(text: str) -> None:
    assert checked({0: text}, GREETING) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({7: "x"}, "There is no segment 7 in this transcript: use the `id` of one of its segments"),
        ({-1: "x"}, "There is no segment -1 in this transcript"),
        ({1: "x" * 2001}, "The text of segment 1 must have at most 2000 characters, got 2001"),
        ({1: "\ud83d"}, "The text of segment 1 has half of a surrogate pair"),
    ],
)
def test_impossible_corrections_are_rejected(texts: dict[int, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        checked(texts, GREETING)
    assert caught.value.param == "segments"


def test_longest_text_is_accepted() -> None:
    assert checked({1: "x" * 2000}, GREETING) == {1: " " + "x" * 2000}


@unhurried
@given(st.dictionaries(st.integers(), st.text()), st.dictionaries(st.integers(), st.text()))
def test_versions_are_equal_for_equal_texts(texts: dict[int, str], others: dict[int, str]) -> None:
    corrections = Corrections(texts=texts, edited_at=1.0)
    assert (corrections.version == Corrections(texts=others, edited_at=2.0).version) is (texts == others)
    assert Corrections.from_dict(json.loads(json.dumps(corrections.to_dict()))) == corrections
    assert (corrections.version == NO_CORRECTIONS.version == "0") is (not texts)


@unhurried
@given(transcripts())
def test_no_corrections_change_nothing(transcript: Transcript) -> None:
    assert corrected(transcript, NO_CORRECTIONS) == transcript
