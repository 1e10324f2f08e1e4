"""Whether what the model wrote for a window can be believed, and what is tried when it can't.

The rules are those of OpenAI's ``whisper/transcribe.py``: text that repeats itself or that the model itself thinks
improbable is decoded again at a higher temperature; improbable text where no speech is heard is silence.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Tried in turn.
TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The defaults are those of OpenAI's ``transcribe.py``; a model may bring its own."""

    log_prob_threshold: float = -1.0
    compression_ratio_threshold: float = 2.4
    no_speech_threshold: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One decoding of a window. ``tokens`` are text and timestamps, without those of the prompt."""

    tokens: tuple[int, ...]
    text: str
    temperature: float
    avg_logprob: float
    no_speech_prob: float

    @property
    def compression_ratio(self) -> float:
        """How many times shorter gzip's algorithm makes the text: high when it repeats itself."""
        written = self.text.encode()
        return len(written) / len(zlib.compress(written))

    def is_silence(self, thresholds: Thresholds) -> bool:
        """Whether the text was made up where nobody speaks."""
        return (
            self.no_speech_prob > thresholds.no_speech_threshold and self.avg_logprob <= thresholds.log_prob_threshold
        )

    def is_acceptable(self, thresholds: Thresholds) -> bool:
        """Whether no further decoding is wanted."""
        if self.no_speech_prob > thresholds.no_speech_threshold and self.avg_logprob < thresholds.log_prob_threshold:
            return True  # silence, whatever was written
        return (
            self.compression_ratio <= thresholds.compression_ratio_threshold
            and self.avg_logprob >= thresholds.log_prob_threshold
        )


def best(attempts: Sequence[Attempt], thresholds: Thresholds) -> Attempt:
    """The attempt to keep, the last one if it is acceptable, else the most probable that does not repeat itself."""
    last = attempts[-1]
    if last.is_acceptable(thresholds):
        return last
    coherent = [one for one in attempts if one.compression_ratio <= thresholds.compression_ratio_threshold]
    return max(coherent or attempts, key=lambda one: one.avg_logprob)
