"""The wall between jobs and speech: one request in, windows as they finish, one transcript out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from app.domain.transcript import Segment, Transcript, TranscriptionOptions


class Turn(Enum):
    """Whether a job is on the model or waits for its turn."""

    WAITING = auto()
    ACTIVE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedWindow:
    """A window of speech as it leaves the model. ``language`` is its full name; times are seconds of the audio."""

    segments: tuple[Segment, ...]
    seconds_done: float
    duration: float
    language: str


class Listener:
    """Hears how a transcription goes, on the event loop, in order. This one does nothing with it."""

    def on_decoded(self, duration: float) -> None:
        """The audio can be read and is so many seconds long."""

    def on_turn(self, turn: Turn) -> None:
        """The job came onto the model, or left it to wait."""

    def on_window(self, window: FinishedWindow) -> None:
        """A window is finished."""


class Transcriber(Protocol):
    """Turns audio files into transcripts; decoding, speech detection, permits and batching are inside."""

    @property
    def active(self) -> int:
        """How many permits are held."""

    async def transcribe(self, source: Path, options: TranscriptionOptions, *, listener: Listener) -> Transcript:
        """The transcript of ``source``, a file as it was received, beside which scratch files may be written.

        Cancelling stops the work: the decoder at once, the model at its next window.

        Raises:
            UnusableAudio: the file holds no audio that can be transcribed.
        """
