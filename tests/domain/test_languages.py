"""Languages in the spellings that clients use."""

from __future__ import annotations

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES
from hypothesis import given
from hypothesis import strategies as st

from app.domain.languages import LANGUAGES, language_code, language_name
from tests.domain.strategies import unhurried


def test_languages_are_those_of_whisper() -> None:
    assert set(LANGUAGES) == set(_LANGUAGE_CODES)
    assert len(set(LANGUAGES.values())) == len(LANGUAGES)
    assert LANGUAGES["en"] == "english"
    assert LANGUAGES["ht"] == "haitian creole"
    assert all(name == name.strip().lower() != "" for name in LANGUAGES.values())


@pytest.mark.parametrize(
    ("spelling", "code"),
    [
        ("en", "en"),
        (" EN ", "en"),
        ("English", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("zh-Hant-TW", "zh"),
        ("Haitian Creole", "ht"),
        ("yue", "yue"),
        ("HAW", "haw"),
    ],
)
def test_language_is_recognised_in_any_spelling(spelling: str, code: str) -> None:
    assert language_code(spelling) == code


@pytest.mark.parametrize("nonsense", ["", " ", "xx", "englisch", "e", "en,de", "-", "-en", "tlh"])
def test_unknown_language_has_no_code(nonsense: str) -> None:
    assert language_code(nonsense) is None


@unhurried
@given(st.sampled_from(sorted(LANGUAGES)))
def test_code_of_a_name_is_the_original_code(code: str) -> None:
    assert language_code(language_name(code)) == code


@unhurried
@given(st.text(alphabet="aehnuwz-_ EN\nß", max_size=8))
def test_code_of_any_text_is_known_or_none(text: str) -> None:
    code = language_code(text)
    assert code is None or code in LANGUAGES


def test_name_of_an_unknown_code_is_the_code() -> None:
    assert language_name("tlh") == "tlh"
