"""Usage of the service: transcripts and their seconds of audio, by day, API key and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class UsageKey:
    """A day, an API key and a model, which are counted apart.

    ``day`` is a number of days in UTC since 1970; ``owner`` is the fingerprint of a key.
    """

    day: int
    owner: str
    model: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of audio, and the requests that they came in."""

    seconds: float = 0.0
    requests: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.seconds + other.seconds, self.requests + other.requests)
