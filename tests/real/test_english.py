"""English as people speak it, transcribed by tiny.en: word errors, word times, and no text where nobody speaks."""

from __future__ import annotations

import asyncio
import re
from difflib import SequenceMatcher
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.real.clips import CLIPS, Clip
from tests.support.audio import SAMPLES

if TYPE_CHECKING:
    from tests.support.service import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real,
    pytest.mark.full(reason="transcribes real speech with a real model"),
]

SPOKEN: Final = [clip for clip in CLIPS if clip.reference]
TIMED: Final = [clip for clip in CLIPS if clip.words]
SILENT: Final = [SAMPLES / "silence.wav", *(clip.path for clip in CLIPS if clip.group == "no speech")]
#: Spellings of one word, and sounds that Whisper leaves out.
SPELLINGS: Final = {"mr": "mister", "alright": "all right", "um": "", "uh": ""}


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case and in one spelling, without punctuation."""
    words = re.findall(r"[a-z']+", text.lower())
    return " ".join(SPELLINGS.get(word, word) for word in words).split()


def word_errors(reference: list[str], words: list[str]) -> int:
    """Return the number of words to substitute, delete and insert (Levenshtein's distance)."""
    distances = list(range(len(words) + 1))
    for row, expected in enumerate(reference, start=1):
        diagonal, distances[0] = distances[0], row
        for column, word in enumerate(words, start=1):
            best = min(diagonal + (word != expected), distances[column] + 1, distances[column - 1] + 1)
            diagonal, distances[column] = distances[column], best
    return distances[-1]


def time_errors(clip: Clip, words: list[dict[str, Any]]) -> list[float]:
    """Return the distances in seconds of the starts and ends of all words that were understood."""
    spoken = [word for word, _, _ in clip.words]
    understood = ["".join(words_of(word["word"])) for word in words]
    errors = []
    for block in SequenceMatcher(None, spoken, understood, autojunk=False).get_matching_blocks():
        for (_, start, end), word in zip(
            clip.words[block.a : block.a + block.size], words[block.b : block.b + block.size], strict=True
        ):
            errors += [abs(word["start"] - start), abs(word["end"] - end)]
    return errors


@pytest.fixture(scope="module")
async def transcripts(english: Running) -> dict[str, dict[str, Any]]:
    """The transcripts of all clips with speech by file, sent at once so that they share batches."""
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    responses = await asyncio.gather(*(english.transcribe(clip.path, **fields) for clip in SPOKEN))
    return {clip.file: response.json() for clip, response in zip(SPOKEN, responses, strict=True)}


# Nine clips are transcribed without an error, corpus.ogg with 2 in 56 words.
@pytest.mark.parametrize("clip", SPOKEN, ids=str)
async def test_person_is_understood(clip: Clip, transcripts: dict[str, dict[str, Any]]) -> None:
    assert clip.reference is not None
    reference, words = words_of(clip.reference), words_of(transcripts[clip.file]["text"])
    assert word_errors(reference, words) <= max(1, 0.1 * len(reference)), words


async def test_few_words_of_all_clips_are_wrong(transcripts: dict[str, dict[str, Any]]) -> None:
    pairs = [(words_of(clip.reference or ""), words_of(transcripts[clip.file]["text"])) for clip in SPOKEN]
    errors = sum(word_errors(reference, words) for reference, words in pairs)
    assert errors <= 0.03 * sum(len(reference) for reference, _ in pairs)


# The mean error is 0.12 s in dashwood.ogg and 0.15 s in corpus.ogg, which is spontaneous and has pauses.
@pytest.mark.parametrize("clip", TIMED, ids=str)
async def test_words_have_the_times_at_which_they_are_said(clip: Clip, transcripts: dict[str, dict[str, Any]]) -> None:
    errors = time_errors(clip, transcripts[clip.file]["words"])
    assert len(errors) >= 0.8 * 2 * len(clip.words)
    assert fmean(errors) < 0.22


@pytest.mark.parametrize("path", SILENT, ids=lambda path: path.name)
async def test_no_text_where_nobody_speaks(path: Any, english: Running) -> None:
    response = await english.transcribe(path, response_format="verbose_json")
    assert response.status_code == 200, response.text
    assert (response.json()["text"], response.json()["segments"]) == ("", [])
