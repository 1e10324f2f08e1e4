"""Words that two guesses agree on are shown, and what follows them in the final text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.realtime.agreement import Agreement, text_after
from app.transcription.live import GuessedWord
from tests.support.live_models import words


def test_words_are_agreed_on_when_they_are_guessed_twice() -> None:
    agreement = Agreement()
    assert agreement.add(words("the quick")) == ""
    assert agreement.add(words("the quick brown")) == " the quick"
    assert agreement.add(words("the quick brow")) == ""
    assert agreement.add(words("the quick brown fox")) == ""
    assert agreement.add(words("the quick brown fox jumps")) == " brown fox"
    assert agreement.text == " the quick brown fox"
    assert agreement.tokens == (0, 1, 2, 3)


def test_guess_without_words_shows_nothing() -> None:
    agreement = Agreement()
    for guess in ("so", "", "so", "so"):
        added = agreement.add(words(guess))
    assert added == " so"


def test_agreed_word_that_grows_is_continued() -> None:
    agreement = Agreement()
    agreement.add(words("everyone who"))
    assert agreement.add(words("everyone who")) == " everyone who"
    grown = (GuessedWord(" everyone", (0,)), GuessedWord(" who's", (0, 1, 2)), GuessedWord(" late", (0, 1, 2, 3)))
    assert agreement.add(grown) == ""
    assert agreement.add(grown) == "'s late"
    assert agreement.tokens == (0, 1, 2, 3)


def test_last_guess_is_shown_as_a_whole() -> None:
    agreement = Agreement()
    agreement.add(words("the quick"))
    agreement.add(words("the quick"))
    assert agreement.finish(words("the quick brown fox")) == " brown fox"
    assert agreement.finish(words("a quick brown fox")) == ""


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=8))
def test_nothing_that_was_shown_is_taken_back(guesses: list[list[str]]) -> None:
    agreement, shown = Agreement(), ""
    for guess in guesses:
        shown += agreement.add(words(" ".join(guess)))
        assert agreement.text == shown


@pytest.mark.parametrize(
    ("shown", "final", "rest"),
    [
        ("", " all of it", " all of it"),
        (" the start", " the start and the end", " and the end"),
        (" the start", " the start, and the end", ", and the end"),
        (" The start", " the start and the end", " and the end"),
        (" the stark", " the start and the end", " and the end"),
        (" the stark and", " the start and the end", " the end"),
        (" it is all wrong", " entirely different words here and more", " and more"),
        (" more than the end", " more than", ""),
        (" words", "", ""),
        ("你好", "你好世界", "世界"),
        ("你号", "你好世界", "世界"),
    ],
)
def test_rest_of_the_final_text(shown: str, final: str, rest: str) -> None:
    assert text_after(shown, final) == rest


@given(st.text("ab ", max_size=12), st.text("ab ", max_size=12))
def test_rest_is_the_end_of_the_final_text(shown: str, final: str) -> None:
    assert final.endswith(text_after(shown, final))
    assert text_after(shown, shown + final) == final
