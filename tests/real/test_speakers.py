"""Real people on one channel: each word has the speaker of the turn that it is in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from benchmarks.diarization_error import read_rttm

if TYPE_CHECKING:
    from tests.support.service import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real,
    pytest.mark.full(reason="transcribes real speech with a real model"),
]

DATA: Final = Path(__file__).parents[1] / "diarization" / "data"
#: The time around the borders of turns in which a word can belong to either.
MARGIN_SECONDS: Final = 0.1


async def test_words_of_three_people_have_their_speakers(english: Running) -> None:
    turns = read_rttm(DATA / "three_voices.rttm")["three_voices"]
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word", "diarize": "true"}
    words = (await english.transcribe(DATA / "three_voices.flac", **fields)).json()["words"]
    compared = 0
    for word in words:
        middle = (word["start"] + word["end"]) / 2
        speakers = {turn.speaker for turn in turns if turn.start - MARGIN_SECONDS < middle < turn.end + MARGIN_SECONDS}
        if len(speakers) == 1:
            assert {word["speaker"]} == speakers, word
            compared += 1
    assert {word["speaker"] for word in words} == {"A", "B", "C"}
    assert compared > 0.8 * len(words)
