"""Rules for accepting a decoding of a window, or decoding it again at a higher temperature.

Most are those of OpenAI's ``whisper/transcribe.py``: a text that repeats itself, or that the model itself finds
improbable, needs a fallback; an improbable text where the model hears no speech is silence. Three differ. Repetition
is measured in characters, not in bytes. After a text that repeats itself the next temperature is skipped, because it
nearly always repeats itself too, at the price of the longest text. And a text that still repeats itself at the last
temperature, where the model hears no speech, is silence as well.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import TranscriptionOptions

#: The first decoding and its fallbacks.
TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: The repetitions of a part of a text that make a loop.
_LOOP_PARTS: Final = 3
#: Texts sampled at a temperature above 0, of which the most probable is kept.
BEST_OF: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Limits between acceptable and unacceptable decodings, by default those of ``transcribe.py``.

    A model can bring its own (see :mod:`app.transcription.loading`), and so can a request.
    """

    log_prob_threshold: float = -1.0
    compression_ratio_threshold: float = 2.4
    no_speech_threshold: float = 0.6

    def of(self, options: TranscriptionOptions) -> Thresholds:
        """Return these limits with those of a request in their place."""
        requested = {limit.name: getattr(options, limit.name) for limit in fields(self)}
        return replace(self, **{name: value for name, value in requested.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """The output of the model for a window at one temperature.

    ``tokens`` are text and timestamps, without the prompt. ``avg_logprob`` is the mean natural logarithm of their
    probabilities, ``no_speech_prob`` the probability (0 to 1) that nobody speaks.
    """

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float

    @property
    def total_logprob(self) -> float:
        """The sum over the tokens and the end of the text."""
        return self.avg_logprob * (len(self.tokens) + 1)

    @property
    def compression_ratio(self) -> float:
        """Length of the text over its length compressed by zlib, both in bytes; repetitive text has a high one."""
        content = self.text.encode()
        return len(content) / len(zlib.compress(content))

    def is_silence(self, thresholds: Thresholds) -> bool:
        """Return True if the text was probably made up where nobody speaks."""
        return self.no_speech_prob > thresholds.no_speech_threshold and (
            self.avg_logprob <= thresholds.log_prob_threshold or self.is_repetitive(thresholds)
        )

    def is_repetitive(self, thresholds: Thresholds) -> bool:
        """Return True if the text repeats itself more than speech does.

        Unlike in ``transcribe.py``, a character counts as one byte in every script. In UTF-8, ordinary Russian
        announcements exceed the limit, because zlib finds the first of the two bytes of their letters again and again.
        """
        content = _one_byte_per_character(self.text)
        return len(content) / len(zlib.compress(content)) > thresholds.compression_ratio_threshold

    def is_acceptable(self, thresholds: Thresholds) -> bool:
        """Return True if no fallback is needed."""
        if self.no_speech_prob > thresholds.no_speech_threshold and self.avg_logprob < thresholds.log_prob_threshold:
            return True  # silence, whatever the text
        return not self.is_repetitive(thresholds) and self.avg_logprob >= thresholds.log_prob_threshold


def _one_byte_per_character(text: str) -> bytes:
    """Return the text in ASCII or, if it has other characters, in an alphabet made for it, of up to 256 characters."""
    if text.isascii():
        return text.encode()
    numbers = {character: number for number, character in enumerate(dict.fromkeys(text))}
    return bytes(number % 256 for number in map(numbers.__getitem__, text))


def temperatures_after(decoding: Decoding, temperatures: Sequence[float], thresholds: Thresholds) -> tuple[float, ...]:
    """Return the temperatures that are left after a decoding at the first of these: none if it is acceptable."""
    if decoding.is_acceptable(thresholds):
        return ()
    return tuple(temperatures[2 if decoding.is_repetitive(thresholds) else 1 :])


def best_decoding(decodings: Sequence[Decoding], thresholds: Thresholds) -> Decoding:
    """Return the last decoding if it is acceptable, else the most probable one that does not repeat itself.

    The choice among unacceptable ones is faster-whisper's; OpenAI's Whisper keeps the last.
    """
    last = decodings[-1]
    if last.is_acceptable(thresholds):
        return last
    coherent = [decoding for decoding in decodings if not decoding.is_repetitive(thresholds)]
    return max(coherent or decodings, key=_avg_logprob)


def without_loop(tokens: Sequence[int], *, first_timestamp: int) -> tuple[int, ...]:
    """Return the tokens without the repetitions at their end, if their text ends with the same part three times.

    Token ids from ``first_timestamp`` on are timestamps, which may differ from part to part.
    """
    indexes = [index for index, token in enumerate(tokens) if token < first_timestamp]
    text = [tokens[index] for index in indexes]
    lengths = range(1, len(text) // _LOOP_PARTS + 1)
    end = min((_loop_start(text, length) + length for length in lengths), default=len(text))
    if end >= len(text):
        return tuple(tokens)
    kept = indexes[end - 1] + 1
    closing = tokens[kept : kept + 1] if tokens[kept] >= first_timestamp else ()
    return (*tokens[:kept], *closing)


def _loop_start(text: Sequence[int], length: int) -> int:
    """Return where the repetitions of a part of this length begin that end the text, or its end if there are none."""
    start = len(text) - length
    while start > 0 and text[start - 1] == text[start - 1 + length]:
        start -= 1
    return start if len(text) - start >= _LOOP_PARTS * length else len(text)


def _avg_logprob(decoding: Decoding) -> float:
    return decoding.avg_logprob
