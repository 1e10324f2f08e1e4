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
    """What can be handed on since the last one, in order. ``language`` is its full name.

    Up to ``seconds_done`` of the audio nothing more will come; ``duration`` is None until it is known.
    """

    segments: tuple[Segment, ...]
    seconds_done: float
    duration: float | None
    language: str


class Listener:
    """Hears how a transcription goes, on the event loop, in order. This one does nothing with it."""

    async def on_start(self) -> None:
        """Work on the file itself is about to begin, and waits for this."""

    def on_decoded(self, duration: float) -> None:
        """The audio can be read and is so many seconds long."""

    def on_turn(self, turn: Turn) -> None:
        """The job came onto the model, or left it to wait."""

    def on_window(self, window: FinishedWindow) -> None:
        """A window is finished."""


class Transcriber(Protocol):
    """Turns audio files into transcripts; decoding, speech detection, slots and batching are inside."""

    @property
    def active(self) -> int:
        """How many slots are held."""

    async def transcribe(
        self, source: Path, options: TranscriptionOptions, *, listener: Listener, awaited: bool = False
    ) -> Transcript:
        """The transcript of ``source``, a file as it was received, beside which scratch files may be written.

        ``awaited`` says that a client waits for it: it goes before what nobody waits for. Cancelling stops the work:
        the decoder at once, the model after its present batch.

        Raises:
            UnusableAudio: the file holds no audio that can be transcribed.
            TranscriptionFailed: the model raised an error, again when it was tried alone.
        """
