"""Local agreement: the words that two guesses in a row agree on are certain enough to be shown.

The rule is that of Liu, Spanakis and Niehues, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by
Partial Hypothesis Selection" (Interspeech 2020). Here each guess also continues the tokens of what was agreed on, so
that nothing that was shown has to be taken back.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.transcription.live import GuessedWord


class Agreement:
    """The text of a window that guesses agree on. ``tokens`` is the beginning of the next guess."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens: tuple[int, ...] = ()
        self._previous: tuple[GuessedWord, ...] = ()

    def add(self, words: tuple[GuessedWord, ...]) -> str:
        """Take a further guess and return the text that is agreed on from now on; it may be empty."""
        count = 0
        while count < min(len(words), len(self._previous)) and words[count].text == self._previous[count].text:
            count += 1
        self._previous = words
        text = "".join(word.text for word in words[:count])
        if len(text) <= len(self.text) or not text.startswith(self.text):
            return ""
        added = text[len(self.text) :]
        self.text, self.tokens = text, words[count - 1].tokens
        return added

    def finish(self, words: tuple[GuessedWord, ...]) -> str:
        """Take a guess after which no audio follows, and return the rest of its text."""
        text = "".join(word.text for word in words)
        return text[len(self.text) :] if text.startswith(self.text) else ""


def text_after(shown: str, final: str) -> str:
    """Return the end of ``final`` that follows what ``shown`` says, also if both differ.

    The words after the last ones that both have are taken for other forms of each other, as many as there are.
    """
    if final.startswith(shown):
        return final[len(shown) :]
    shown_words, final_words = _words(shown), _words(final)
    matcher = SequenceMatcher(None, _compared(shown_words), _compared(final_words), autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    shown_end, final_end = (blocks[-1].a + blocks[-1].size, blocks[-1].b + blocks[-1].size) if blocks else (0, 0)
    return "".join(final_words[final_end + len(shown_words) - shown_end :])


def _words(text: str) -> list[str]:
    """Return the words of a text, each with its leading space; characters if there are no spaces."""
    words = text.split(" ")
    if len(words) == 1:
        return list(text)
    return [word if index == 0 else f" {word}" for index, word in enumerate(words) if word or index]


def _compared(words: Sequence[str]) -> list[str]:
    """Return words without case and punctuation at their ends."""
    return [word.strip(" .,;:!?¡¿\"'“”‘’…-–—").casefold() or word for word in words]
