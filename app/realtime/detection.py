"""The beginnings and ends of utterances, from the probability of speech in each frame of 32 ms.

Positions are samples at 16 kHz from the beginning of the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from app.realtime.audio import RATE

FRAME_SAMPLES: Final = 512
#: Speech ends below a probability that is this much lower than the one it begins at, as in Silero's own programs.
_HYSTERESIS: Final = 0.15
#: A single frame of speech begins an utterance only if it is this much more probable; otherwise it takes two.
_CLEAR: Final = 0.3
_CERTAIN: Final = 0.95


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Speech began at ``position``."""

    position: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The silence at ``position`` has lasted long enough to end an utterance."""

    position: int


class UtteranceDetector:
    """OpenAI's ``server_vad``: speech begins above ``threshold`` and ends after ``silence_ms`` below it."""

    def __init__(self, *, threshold: float, silence_ms: int, position: int = 0) -> None:
        self._threshold = threshold
        self._end_threshold = max(threshold - _HYSTERESIS, 0.01)
        self._clear = min(threshold + _CLEAR, _CERTAIN)
        self._silence_samples = silence_ms * RATE // 1000
        self._position = position
        self._candidate: int | None = None
        self._silent_since: int | None = None
        self._last_speech = position
        self.is_speech = False

    @property
    def silence(self) -> int:
        """The samples since somebody has last spoken."""
        return self._position - self._last_speech

    @property
    def last_speech(self) -> int:
        """The end of the last frame in which somebody speaks."""
        return self._last_speech

    def add(self, probability: float) -> SpeechStarted | SpeechStopped | None:
        """Take the next frame and return the change that it causes."""
        start = self._position
        self._position += FRAME_SAMPLES
        if probability >= self._end_threshold and (self.is_speech or probability >= self._threshold):
            self._last_speech = self._position
        if self.is_speech:
            return self._stop_if_silent(start, probability)
        if probability < self._threshold:
            self._candidate = None
            return None
        if self._candidate is None and probability < self._clear:
            self._candidate = start
            return None
        self.is_speech = True
        self._silent_since = None
        return SpeechStarted(start if self._candidate is None else self._candidate)

    def _stop_if_silent(self, start: int, probability: float) -> SpeechStopped | None:
        if probability >= self._threshold:
            self._silent_since = None
            return None
        if probability < self._end_threshold and self._silent_since is None:
            self._silent_since = start
        if self._silent_since is None or self._position - self._silent_since < self._silence_samples:
            return None
        self.reset()
        return SpeechStopped(self._position)

    def reset(self) -> None:
        """Wait for the next speech, because the utterance has ended."""
        self.is_speech = False
        self._candidate = self._silent_since = None
