"""The Transcriber on Whisper: each file is decoded, searched for speech and fed to the batcher while it still arrives.

A transcription becomes windows, windows of all transcriptions become batches, and what is decoded from them becomes
segments.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.errors import AudioTooLong, UndecodableAudio
from app.domain.events import discard_event
from app.transcription.admission import PREVIEW_SECONDS, Grant
from app.transcription.batcher import Batcher
from app.transcription.file_transcription import FileTranscription
from app.transcription.recording import Recording
from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from app.domain.events import DeviceState, EventSink
    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.domain.waveform import Waveform
    from app.transcription.admission import Candidate, FrontEnd
    from app.transcription.decoding import Decoded
    from app.transcription.slots import Slots
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

#: Headers are not exact: less than this, and than this share of the recording, is not worth a warning.
_MISSING_SECONDS: Final = 2.0
_MISSING_SHARE: Final = 0.1
#: If the default track of a film is music, one of these has the speech.
_MAX_TRACKS_TRIED: Final = 8


class _TranscribedTrack(NamedTuple):
    """The transcript of the audio track ``track``, from 1, of the file's ``tracks``."""

    transcript: Transcript
    waveform: Waveform
    track: int
    tracks: int


class WhisperTranscriber:
    """A Transcriber on the replicas of one model, within ``slots`` that other models may share.

    Create it on a running event loop. ``on_death`` is called when the engine has failed for good.
    """

    def __init__(
        self,
        replicas: Sequence[WhisperModel],
        *,
        front_end: FrontEnd,
        slots: Slots,
        batch_size: int,
        on_death: Callable[[BaseException], None],
        emit: EventSink = discard_event,
    ) -> None:
        self.model = replicas[0]
        self._front_end = front_end
        self._text_thread = ThreadPoolExecutor(1, thread_name_prefix="text")
        self._batcher = Batcher(
            replicas,
            slots=slots,
            batch_size=batch_size,
            encodes_apart=self.model.device.kind == "cpu",
            on_death=on_death,
            emit=emit,
        )

    @property
    def active(self) -> int:
        return self._batcher.scheduler.held

    @property
    def device_shares(self) -> list[dict[DeviceState, float]]:
        return self._batcher.device_shares

    async def close(self) -> None:
        """Stop without waiting for the batch that is on the model."""
        await self._batcher.close()
        self._text_thread.shutdown(wait=False, cancel_futures=True)

    async def unload(self) -> None:
        """Stop, and wait until the model is no longer in use."""
        await self.close()
        await self._batcher.wait_until_idle()

    async def transcribe(
        self, source: Path, options: TranscriptionOptions, *, listener: Listener, synchronous: bool = False
    ) -> Transcript:
        """See :class:`app.transcription.transcriber.Transcriber`."""
        listener.on_waiting()
        candidate = self._front_end.admission.enqueue(synchronous=synchronous)
        try:
            await candidate.admitted()
            await listener.on_start()
            chosen = await self._transcribe_speech(candidate, source, options, listener, synchronous=synchronous)
            listener.on_waveform(chosen.waveform)
            return chosen.transcript
        finally:
            candidate.leave()

    async def _transcribe_speech(
        self,
        candidate: Candidate,
        source: Path,
        options: TranscriptionOptions,
        listener: Listener,
        *,
        synchronous: bool,
    ) -> _TranscribedTrack:
        """Transcribe the track of the options or, if they name none, the first one with speech."""
        default = await self._transcribe_track(candidate, source, options, listener, synchronous=synchronous)
        if default.transcript.segments or options.audio_track is not None:
            return default
        for track in range(1, min(default.tracks, _MAX_TRACKS_TRIED) + 1):
            if track == default.track:
                continue
            candidate.requeue()
            other = replace(options, audio_track=track)
            with suppress(UndecodableAudio, AudioTooLong):
                attempt = await self._transcribe_track(candidate, source, other, listener, synchronous=synchronous)
                if attempt.transcript.segments:
                    return attempt
        return default

    async def _transcribe_track(
        self,
        candidate: Candidate,
        source: Path,
        options: TranscriptionOptions,
        listener: Listener,
        *,
        synchronous: bool,
    ) -> _TranscribedTrack:
        """Transcribe the track of the options, once the candidate is admitted."""
        recording = Recording(source.with_name(source.name + ".pcm"))
        try:
            is_decoded = await self._decode_preview(candidate, source, recording, options)
            if is_decoded:
                listener.on_decoded(recording.samples / SAMPLE_RATE)
            transcription = FileTranscription(
                self._batcher,
                self._front_end,
                self.model,
                recording,
                options,
                listener,
                text_thread=self._text_thread,
                synchronous=synchronous,
            )
            with _first_error_only():
                async with asyncio.TaskGroup() as group:
                    if not is_decoded:
                        group.create_task(self._decode_file(candidate, source, recording, options, listener))
                    transcript = await transcription.run(group)
            return _TranscribedTrack(transcript, transcription.waveform, recording.track, recording.tracks)
        finally:
            await asyncio.to_thread(recording.discard)

    async def _decode_preview(
        self, candidate: Candidate, source: Path, recording: Recording, options: TranscriptionOptions
    ) -> bool:
        """Wait for admission. Return True if a preview has already decoded the whole file."""
        while await candidate.admitted() is Grant.PREVIEW:
            decoded = await self._front_end.decoder.decode(
                source,
                recording.path,
                separate_channels=options.multichannel,
                track=options.audio_track,
                stop_after_seconds=PREVIEW_SECONDS,
            )
            if decoded.is_complete:
                candidate.release_decoder()
                _complete(recording, decoded)
                return True
            candidate.requeue()
        return False

    async def _decode_file(
        self,
        candidate: Candidate,
        source: Path,
        recording: Recording,
        options: TranscriptionOptions,
        listener: Listener,
    ) -> None:
        decoded = await self._front_end.decoder.decode(
            source,
            recording.path,
            separate_channels=options.multichannel,
            track=options.audio_track,
            on_progress=recording.grow,
        )
        candidate.release_decoder()
        _complete(recording, decoded)
        listener.on_decoded(decoded.duration)


def _complete(recording: Recording, decoded: Decoded) -> None:
    recording.warnings += _warnings(decoded)
    recording.track, recording.tracks = decoded.track, decoded.tracks
    recording.complete(decoded.samples, decoded.channels)


def _warnings(decoded: Decoded) -> Iterator[str]:
    """Yield sentences about the file for the person who sent it."""
    if decoded.tracks > 1:
        yield (
            f"The file has {decoded.tracks} audio tracks, of which number {decoded.track} was transcribed: "
            "`audio_track` selects another."
        )
    if decoded.cancelled_seconds:
        yield (
            f"For {decoded.cancelled_seconds:.1f} s the channels of the recording cancel each other out when they are "
            "mixed, perhaps because a microphone is wired with reversed polarity. The loudest channel was transcribed "
            "instead."
        )
    if decoded.gave_up:
        yield (
            f"After {decoded.duration:.1f} s of audio the file goes on with so much that is no audio that the rest was "
            "not searched. Repair the file, or convert it, if there is more."
        )
    if decoded.is_complete and decoded.missing_seconds > max(_MISSING_SECONDS, _MISSING_SHARE * decoded.duration):
        yield (
            f"The header of the file claims {decoded.missing_seconds:.0f} s more than could be decoded: its recording "
            "or upload was probably interrupted."
        )


@contextmanager
def _first_error_only() -> Iterator[None]:
    """Raise the first error of a task group instead of the group; the other tasks were cancelled because of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__
