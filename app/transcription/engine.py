"""The Transcriber on Whisper: each file is decoded, searched for speech and fed to the batcher while it still arrives.

A transcription becomes windows, windows of all transcriptions become batches, and what is decoded from them becomes
segments.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from app.domain.concurrency import first_error_only
from app.domain.errors import AudioTooLong, UndecodableAudio
from app.domain.events import discard_event
from app.domain.speakers import with_channels, with_speakers
from app.transcription.admission import PREVIEW_SECONDS, Grant
from app.transcription.batcher import Batcher
from app.transcription.file_transcription import FileTranscription
from app.transcription.live import LiveTranscriber
from app.transcription.recording import Recording
from app.transcription.vad import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from app.domain.events import DeviceState, EventSink
    from app.domain.transcript import Transcript, TranscriptionOptions, Turn
    from app.domain.waveform import Waveform
    from app.transcription.admission import Candidate, FrontEnd
    from app.transcription.decoding import Decoded
    from app.transcription.diarizer import Voice
    from app.transcription.slots import Slots
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

#: Headers are not exact: less than this, and than this share of the recording, is not worth a warning.
_MISSING_SECONDS: Final = 2.0
_MISSING_SHARE: Final = 0.1
_NO_DIARIZATION: Final = "Speakers were not told apart, because the server's DIARIZATION_MODEL is none."
#: If the default track of a film is music, one of these has the speech.
_MAX_TRACKS_TRIED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """A transcription that was asked for. ``voices`` are those of known speakers, by their names."""

    source: Path
    options: TranscriptionOptions
    listener: Listener
    synchronous: bool
    candidate: Candidate
    voices: Mapping[str, Voice] = field(default_factory=dict)


class _TranscribedTrack(NamedTuple):
    """The transcript of the audio track ``track``, from 1, of the file's ``tracks``."""

    transcript: Transcript
    waveform: Waveform
    track: int
    tracks: int
    only_language: bool

    @property
    def has_speech(self) -> bool:
        """True if there is text, or the language was detected where nothing else counts."""
        is_heard = self.only_language and self.transcript.language_probability is not None
        return is_heard or bool(self.transcript.segments)


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
        self.live = LiveTranscriber(self._batcher, front_end, self.model, text_thread=self._text_thread)

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
        self,
        source: Path,
        options: TranscriptionOptions,
        *,
        listener: Listener,
        synchronous: bool = False,
        references: Sequence[Path] = (),
    ) -> Transcript:
        """See :class:`app.transcription.transcriber.Transcriber`."""
        listener.on_waiting()
        candidate = self._front_end.admission.enqueue(synchronous=synchronous, by_voices=options.tells_voices_apart)
        try:
            await candidate.admitted()
            await listener.on_start()
            request = _Request(
                source=source, options=options, listener=listener, synchronous=synchronous, candidate=candidate
            )
            chosen = await self._transcribe_speech(await self._with_voices(request, references))
            listener.on_waveform(chosen.waveform)
            return chosen.transcript
        finally:
            candidate.leave()

    async def _with_voices(self, request: _Request, references: Sequence[Path]) -> _Request:
        """Return the request with the voices of its references."""
        diarizer = self._front_end.diarizer
        if diarizer is None or not references:
            return request
        names = request.options.known_speakers
        return replace(request, voices=await diarizer.voices(names, references, decoder=self._front_end.decoder))

    async def _transcribe_speech(self, request: _Request) -> _TranscribedTrack:
        """Transcribe the track of the options or, if they name none, the first one with speech."""
        default = await self._transcribe_track(request)
        if default.has_speech or request.options.audio_track is not None:
            return default
        for track in range(1, min(default.tracks, _MAX_TRACKS_TRIED) + 1):
            if track == default.track:
                continue
            request.candidate.requeue()
            other = replace(request, options=replace(request.options, audio_track=track))
            with suppress(UndecodableAudio, AudioTooLong):
                attempt = await self._transcribe_track(other)
                if attempt.has_speech:
                    return attempt
        return default

    async def _transcribe_track(self, request: _Request) -> _TranscribedTrack:
        """Transcribe the track of the options, once the candidate is admitted."""
        recording = Recording(request.source.with_name(request.source.name + ".pcm"))
        try:
            is_decoded = await self._decode_preview(request, recording)
            if is_decoded:
                request.listener.on_decoded(recording.samples / SAMPLE_RATE)
            transcription = FileTranscription(
                self._batcher,
                self._front_end,
                self.model,
                recording,
                request.options,
                request.listener,
                text_thread=self._text_thread,
                synchronous=request.synchronous,
            )
            with first_error_only():
                async with asyncio.TaskGroup() as group:
                    decoding = None if is_decoded else group.create_task(self._decode_file(request, recording))
                    turns = self._start_diarization(request, recording, group)
                    transcript = await transcription.run(group)
                    if decoding is not None:
                        decoding.cancel()  # which has ended, unless only the beginning counts
                    request.candidate.release_file()
                    transcript = await _with_speakers(transcript, request, turns)
            return _TranscribedTrack(
                transcript,
                transcription.waveform,
                recording.track,
                recording.tracks,
                only_language=request.options.only_language,
            )
        finally:
            await asyncio.to_thread(recording.discard)

    def _start_diarization(
        self, request: _Request, recording: Recording, group: asyncio.TaskGroup
    ) -> asyncio.Task[tuple[Turn, ...]] | None:
        """Begin to tell speakers apart by their voices if the options ask for it."""
        diarizer, diarization = self._front_end.diarizer, request.options.diarization
        if diarizer is None or diarization is None or request.options.multichannel:
            return None
        return group.create_task(
            diarizer.turns(recording, diarization, known=request.voices, on_heard=request.listener.on_heard)
        )

    async def _decode_preview(self, request: _Request, recording: Recording) -> bool:
        """Wait for admission. Return True if a preview has already decoded the whole file."""
        candidate, options = request.candidate, request.options
        while await candidate.admitted() is Grant.PREVIEW:
            decoded = await self._front_end.decoder.decode(
                request.source,
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

    async def _decode_file(self, request: _Request, recording: Recording) -> None:
        decoded = await self._front_end.decoder.decode(
            request.source,
            recording.path,
            separate_channels=request.options.multichannel,
            track=request.options.audio_track,
            on_progress=recording.grow,
        )
        request.candidate.release_decoder()
        _complete(recording, decoded)
        request.listener.on_decoded(decoded.duration)


async def _with_speakers(
    transcript: Transcript, request: _Request, turns: asyncio.Task[tuple[Turn, ...]] | None
) -> Transcript:
    """Return the transcript with its speakers, once they are told apart."""
    options = request.options
    if options.diarization is None:
        return transcript
    if options.multichannel:
        return await asyncio.to_thread(with_channels, transcript, options.known_speakers)
    if turns is None:
        return replace(transcript, warnings=(*transcript.warnings, _NO_DIARIZATION))
    if not transcript.segments:
        turns.cancel()
        return transcript
    if not turns.done():
        request.listener.on_text_done()
    return await asyncio.to_thread(with_speakers, transcript, await turns)


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
