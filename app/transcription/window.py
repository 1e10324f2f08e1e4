"""A stretch of speech on its way through the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.transcription.phrases import SECONDS_PER_FRAME

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import Segment, Task
    from app.transcription.fallback import Attempt

    Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKey:
    """What has to be the same for all windows that one call of the model decodes.

    CTranslate2 wants ``<|startoftranscript|>`` at the same place in every prompt, and one beam size and temperature
    for the call; languages may differ.
    """

    beam_size: int
    temperature: float
    prompt_length: int


@dataclass(slots=True, kw_only=True, eq=False)
class Window:
    """At most 30 s of one channel, from sample ``start`` to sample ``end``.

    ``features`` is the log-mel spectrogram, shape ``(mels, frames)``, of the part that begins ``seek`` frames after
    the start; what is before that has been transcribed. ``encoded`` is what the encoder makes of it, shape
    ``(positions, width)``, once it is there. One owner at a time changes it: the front, the scheduler, or the thread
    of the model that has it in work.
    """

    channel: int
    number: int
    start: int
    end: int
    features: Array
    task: Task
    beam_size: int
    temperatures: tuple[float, ...]
    prompt: tuple[int, ...] = ()
    word_timestamps: bool = False
    language: str | None = None
    seek: int = 0
    encoded: Array | None = None
    attempts: list[Attempt] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return int(self.features.shape[1])

    @property
    def seconds(self) -> float:
        """How much audio this decoding covers."""
        return self.frames * SECONDS_PER_FRAME

    @property
    def temperature(self) -> float:
        """That of the next attempt."""
        return self.temperatures[len(self.attempts)]

    @property
    def is_last_attempt(self) -> bool:
        return len(self.attempts) + 1 == len(self.temperatures)

    @property
    def key(self) -> DecodeKey:
        beam_size = self.beam_size if self.temperature == 0 else 1
        return DecodeKey(beam_size=beam_size, temperature=self.temperature, prompt_length=len(self.prompt))

    def try_hotter(self, attempt: Attempt, encoded: Array) -> None:
        """Has the same audio decoded again."""
        self.attempts.append(attempt)
        self.encoded = encoded

    def go_on(self, frames: int) -> bool:
        """Leaves ``frames`` behind as transcribed; whether there are any after them."""
        self.seek += frames
        self.features = self.features[:, frames:]
        self.attempts.clear()
        self.encoded = None
        return self.frames > 0
