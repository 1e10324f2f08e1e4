"""The language of a channel: detected from the sound of a window and, if that is not certain, decided by its text.

Whisper ranks languages by the first token that it would write. If no language is probable enough, the window is
decoded in the first few side by side, and the text that the model finds the most probable decides. The language of a
channel is the first certain one, or the one that several uncertain windows agree on. If a request names several
languages, each window has its own among these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.transcription.fallback import Decoding, Thresholds

#: The base model was right about all of 93 clips of 1 to 30 s, in 13 languages, with a first probability from 0.6 on,
#: and about 4 of 14 below.
_CERTAIN: Final = 0.6
#: More rarely hold the right one.
_MAX_GUESSES: Final = 3
#: A language that is less probable than this share of the first one is not tried.
_MIN_SHARE: Final = 0.1
#: Uncertain windows with text, and with or without, after which the language of a channel is settled all the same:
#: until then its windows go onto the model one by one.
_MAX_UNCERTAIN_TEXTS: Final = 3
_MAX_UNCERTAIN_WINDOWS: Final = 8
#: A window without text says little about the language.
_SILENT_WEIGHT: Final = 0.01


@dataclass(frozen=True, slots=True)
class LanguageGuess:
    """A language code with the probability (0 to 1) that the model's encoder finds for it."""

    code: str
    probability: float


def plausible_languages(
    ranking: Sequence[tuple[str, float]], candidates: Sequence[str] = ()
) -> tuple[LanguageGuess, ...]:
    """Return the languages to decode a window in: only one if it is certain.

    ``ranking`` is CTranslate2's: tokens such as ``<|en|>`` and probabilities, the highest first. If there are
    ``candidates``, the language is one of these codes, and their probabilities add up to 1.
    """
    guesses = [LanguageGuess(token.strip("<|>"), probability) for token, probability in ranking]
    if candidates:
        guesses = _only(candidates, guesses)
    first = guesses[0]
    if first.probability >= _CERTAIN:
        return (first,)
    return tuple(guess for guess in guesses[:_MAX_GUESSES] if guess.probability >= first.probability * _MIN_SHARE)


def _only(candidates: Sequence[str], guesses: Sequence[LanguageGuess]) -> list[LanguageGuess]:
    """Return the guesses among the candidates, with the probabilities that they have if it is one of these."""
    allowed = [guess for guess in guesses if guess.code in candidates]
    total = sum(guess.probability for guess in allowed) or 1.0
    return [LanguageGuess(guess.code, guess.probability / total) for guess in allowed]


def likeliest(guesses: Sequence[LanguageGuess], decodings: Sequence[Decoding], thresholds: Thresholds) -> int:
    """Return the index of the guess whose text is the most probable, with the language as its first token.

    Texts that repeat themselves only count if all do: the model finds every repetition probable.
    """
    indexes = range(len(guesses))
    coherent = [index for index in indexes if not decodings[index].is_repetitive(thresholds)]
    scores = [
        (decoding.total_logprob + log(guess.probability or 1e-9)) / (len(decoding.tokens) + 2)
        for guess, decoding in zip(guesses, decodings, strict=True)
    ]
    return max(coherent or indexes, key=scores.__getitem__)


@dataclass(slots=True)
class ChannelLanguage:
    """The language of a channel as far as its windows tell: ``code`` is None until it is settled."""

    code: str | None = None
    _weights: dict[str, float] = field(default_factory=dict)
    _windows: int = 0
    _texts: int = 0

    @property
    def best(self) -> str | None:
        """The settled language, else the most probable one so far, else None."""
        return self.code or max(self._weights, key=self._weights.__getitem__, default=None)

    def settle(self, code: str | None) -> None:
        """Keep a certain language, unless there is one already."""
        self.code = self.code or code

    def add_uncertain(self, guess: LanguageGuess, *, has_text: bool) -> None:
        """Count the language of a finished window that was not certain."""
        weight = guess.probability * (1.0 if has_text else _SILENT_WEIGHT)
        self._weights[guess.code] = self._weights.get(guess.code, 0.0) + weight
        self._windows += 1
        self._texts += has_text
        if self._texts >= _MAX_UNCERTAIN_TEXTS or self._windows >= _MAX_UNCERTAIN_WINDOWS:
            self.settle(self.best)
