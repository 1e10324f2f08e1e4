"""The boundary between jobs and transcription: one audio file in, windows as they finish, one transcript out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from app.domain.transcript import Segment, Transcript, TranscriptionOptions
    from app.domain.waveform import Waveform


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedWindow:
    """The segments that became final with one window, in order of their start times.

    No further segment will start before ``seconds_done``. ``duration`` is the length of the audio in seconds, None
    while it is still being decoded. ``language`` is a full lowercase English name.
    """

    segments: tuple[Segment, ...]
    seconds_done: float
    duration: float | None
    language: str


class Listener:
    """Callbacks for the progress of one transcription, called on the event loop, in order.

    This base class ignores all of them; override those that matter.
    """

    async def on_start(self) -> None:
        """Prepare for work on the file, which begins when this returns."""

    def on_decoded(self, duration: float) -> None:
        """Handle the end of decoding; ``duration`` is the length of the audio in seconds."""

    def on_waveform(self, waveform: Waveform) -> None:
        """Handle the waveform of what was transcribed, before the transcript is returned."""

    def on_heard(self, seconds_done: float) -> None:
        """Handle progress in telling speakers apart, which goes on beside the windows and perhaps after the last."""

    def on_text_done(self) -> None:
        """Handle the end of all windows while speakers are still to be told apart."""

    def on_waiting(self) -> None:
        """Handle waiting for a slot, at the beginning and whenever the slot is taken back."""

    def on_slot_granted(self) -> None:
        """Handle receiving a slot, which happens several times in a long transcription."""

    def on_window(self, window: FinishedWindow) -> None:
        """Handle a finished window, even if no segment has become final with it."""


class Transcriber(Protocol):
    """Audio file to transcript, including decoding, speech detection, slots and batching."""

    @property
    def active(self) -> int:
        """The number of slots that are held."""

    async def transcribe(
        self,
        source: Path,
        options: TranscriptionOptions,
        *,
        listener: Listener,
        synchronous: bool = False,
        references: Sequence[Path] = (),
    ) -> Transcript:
        """Return the transcript of ``source``, a media file as it was received.

        Scratch files are written beside it. ``synchronous`` transcriptions, for which a client holds its connection
        open, go before the others. ``references`` are media files with the voices of the ``known_speakers`` of the
        options. If the caller is cancelled, decoding stops at once and the model after its present batch.

        Raises:
            UnusableAudio: The file holds no audio that can be transcribed.
            UnusableReference: A reference holds no voice.
            TranscriptionFailed: The model raised an error, and again when the window was retried alone.
            EngineFailed: The engine has died.
        """
