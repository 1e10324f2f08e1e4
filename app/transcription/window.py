"""A stretch of speech on its way through the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import Segment, Task
    from app.transcription.fallback import Decoding
    from app.transcription.vad import Span

    Array = npt.NDArray[np.float32]

#: The padding that speech is usually cut with.
_EDGE_SECONDS: Final = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeKey:
    """What has to be the same for all windows that one call of the model decodes.

    CTranslate2 wants ``<|startoftranscript|>`` at the same place in every prompt, and one beam size and temperature
    for the call; languages may differ.
    """

    beam_size: int
    temperature: float
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where in a recording the ``spans`` of a window are, so that times in it become times of the recording.

    Spans hold up to ``_EDGE_SECONDS`` of silence at their edges. A phrase that begins in the silence at the end of a
    span belongs to the next one, and one that ends in the silence at the beginning of a span to the one before:
    otherwise it would seem to last through all that was left out between them.
    """

    spans: tuple[Span, ...]

    def of_phrase(self, start: float, end: float) -> tuple[float, float]:
        """Seconds of the recording for seconds of the window."""
        first = self._span(start)
        last = max(first, self._span(end, ends=True))
        if first < last and self._begin(first + 1) - start <= _EDGE_SECONDS:
            first += 1
            start = max(start, self._begin(first))
        if first < last and end - self._begin(last) <= _EDGE_SECONDS:
            last -= 1
            end = min(end, self._begin(last + 1))
        return self._moved(start, first), self._moved(end, last)

    def of_word(self, start: float, end: float) -> tuple[float, float]:
        """A word lies in one span: that of its middle."""
        span = self._span((start + end) / 2)
        low, high = self._begin(span), self._begin(span + 1)
        return self._moved(min(max(start, low), high), span), self._moved(min(max(end, low), high), span)

    def _span(self, seconds: float, *, ends: bool = False) -> int:
        """Which span a time lies in; one between two spans begins the second, or ends the first."""
        for index in range(len(self.spans) - 1):
            edge = self._begin(index + 1)
            if seconds < edge or (ends and seconds == edge):
                return index
        return len(self.spans) - 1

    def _begin(self, index: int) -> float:
        """When a span begins in the window; after the last one, when the window ends."""
        return sum(span.samples for span in self.spans[:index]) / SAMPLE_RATE

    def _moved(self, seconds: float, index: int) -> float:
        return self.spans[index].start / SAMPLE_RATE + seconds - self._begin(index)


@dataclass(slots=True, kw_only=True, eq=False)
class Window:
    """At most 30 s of one channel: ``spans`` of the recording, without the silence between them.

    ``features`` is the log-mel spectrogram, shape ``(mels, frames)``, of the part that begins ``seek`` frames after
    the start of the window; what is before that has been transcribed. ``encoded`` is what the encoder makes of it,
    shape ``(positions, width)``, once it is there. One owner at a time changes it: the front, the scheduler, or the
    thread of the model that has it in work.
    """

    channel: int
    number: int
    spans: tuple[Span, ...]
    features: Array
    task: Task
    beam_size: int
    temperatures: tuple[float, ...]
    prompt: tuple[int, ...] = ()
    word_timestamps: bool = False
    token_logprobs: bool = False
    language: str | None = None
    seek: int = 0
    encoded: Array | None = None
    decodings: list[Decoding] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    @property
    def start(self) -> int:
        """The first sample."""
        return self.spans[0].start

    @property
    def wants_alignment(self) -> bool:
        """Whether its text is to be read back by the model."""
        return self.word_timestamps or self.token_logprobs

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.spans)

    @property
    def frames(self) -> int:
        return int(self.features.shape[1])

    @property
    def temperature(self) -> float:
        """The temperature of the next decoding."""
        return self.temperatures[len(self.decodings)]

    @property
    def is_last_temperature(self) -> bool:
        """True if no fallback is left after the next decoding."""
        return len(self.decodings) + 1 == len(self.temperatures)

    @property
    def key(self) -> DecodeKey:
        beam_size = self.beam_size if self.temperature == 0 else 1
        return DecodeKey(beam_size=beam_size, temperature=self.temperature, prompt_length=len(self.prompt))

    def fall_back(self, decoding: Decoding, encoded: Array) -> None:
        """Make the next decoding use the next temperature and the encoder's output, shape ``(positions, width)``."""
        self.decodings.append(decoding)
        self.encoded = encoded

    def advance(self, frames: int) -> bool:
        """Skip the first ``frames``, which are transcribed. Return True if any are left."""
        self.seek += frames
        self.features = self.features[:, frames:]
        self.decodings.clear()
        self.encoded = None
        return self.frames > 0
