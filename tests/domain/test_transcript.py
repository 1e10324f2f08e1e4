"""Transcripts and their stored form."""

from __future__ import annotations

import json

from hypothesis import given

from app.domain.transcript import Transcript
from tests.domain.strategies import transcripts, unhurried


@unhurried
@given(transcripts())
def test_transcript_survives_a_round_trip_through_json(transcript: Transcript) -> None:
    assert Transcript.from_dict(json.loads(json.dumps(transcript.to_dict()))) == transcript


@unhurried
@given(transcripts())
def test_text_and_words_are_those_of_the_segments_in_order(transcript: Transcript) -> None:
    assert transcript.text == "".join(segment.text for segment in transcript.segments).strip()
    assert list(transcript.words) == [word for segment in transcript.segments for word in segment.words]
