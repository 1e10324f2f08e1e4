"""Twelve languages, detected and transcribed by base."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from app.domain.languages import LANGUAGES
from tests.real.clips import CLIPS, RECORDINGS, Clip
from tests.support.audio import Samples, encode, silence

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.real,
    pytest.mark.full(reason="transcribes real speech with a real model"),
]

SPOKEN: Final = [clip for clip in CLIPS if clip.text_has]


def test_each_of_twelve_languages_has_a_clip() -> None:
    assert len({clip.language for clip in SPOKEN}) == 12


@pytest.mark.parametrize("clip", SPOKEN, ids=str)
async def test_language_is_detected_and_written(clip: Clip, multilingual: Running) -> None:
    response = await multilingual.transcribe(clip.path, response_format="verbose_json")
    assert response.status_code == 200, response.text
    assert clip.language is not None
    assert clip.text_has is not None
    assert response.json()["language"] == LANGUAGES[clip.language]
    assert clip.text_has in response.json()["text"]


def joined(*files: str) -> Samples:
    """Return recordings one after the other, with pauses of 1.5 s."""
    recordings = (decode_audio(str(RECORDINGS / file)) for file in files)
    pause = silence(1.5)
    parts = [part for signal in recordings for part in ((signal * 32_767).astype(np.int16), pause)]
    return np.concatenate(parts)


async def test_each_part_of_a_recording_is_written_in_its_language(tmp_path: Path, multilingual: Running) -> None:
    source = encode(tmp_path / "audio.flac", joined("jfk.ogg", "es.ogg", "de.ogg"), container="flac", codec="flac")
    fields = {"languages[]": ["de", "en", "es"], "timestamp_granularities[]": ["word", "segment"]}
    body = (await multilingual.transcribe(source, response_format="verbose_json", **fields)).json()
    texts: dict[str, str] = {}
    for segment in body["segments"]:
        texts[segment["language"]] = texts.get(segment["language"], "") + segment["text"]
    assert list(texts) == ["en", "es", "de"]
    assert {language["code"] for language in body["languages"]} == set(texts)
    assert LANGUAGES[body["languages"][0]["code"]] == body["language"]
    assert "country" in texts["en"]
    assert "sorpresa" in texts["es"]
    assert "Wohnzimmer" in texts["de"]
    assert all(earlier["end"] <= later["start"] for earlier, later in pairwise(body["words"]))
