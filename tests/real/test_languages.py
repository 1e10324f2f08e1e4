"""Twelve languages, detected and transcribed by base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from app.domain.languages import LANGUAGES
from tests.real.clips import CLIPS, Clip

if TYPE_CHECKING:
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
