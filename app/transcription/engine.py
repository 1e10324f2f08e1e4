"""The Transcriber: every request is decoded, searched for speech and fed to the batcher while it still arrives.

Nothing is held for the whole of an audio but its PCM on disk and its transcript: the front of each request runs ahead
of the model by a few windows and then waits.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.events import discard_event
from app.domain.languages import language_name
from app.domain.transcript import Transcript
from app.transcription.admission import PREVIEW_SECONDS, Candidate, Grant
from app.transcription.batcher import Batcher, Request
from app.transcription.features import HOP_SAMPLES
from app.transcription.recording import Recording
from app.transcription.segments import Assembly
from app.transcription.transcriber import FinishedWindow
from app.transcription.vad import BLOCK_SAMPLES, SAMPLE_RATE, Span, WindowFinder, WindowSpan, as_float
from app.transcription.whisper import MAX_PROMPT_TOKENS, temperatures
from app.transcription.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from app.domain.events import EventSink
    from app.domain.transcript import Segment, TranscriptionOptions
    from app.transcription.admission import FrontEnd
    from app.transcription.slots import Slots
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel
    from app.transcription.window import Array

#: Windows that a request may have under way while it waits for its turn.
_OUTSTANDING_WAITING: Final = 2
#: A recording of which more has been searched is not short, whatever is found in the rest.
_LONG_SAMPLES: Final = round(PREVIEW_SECONDS * SAMPLE_RATE)
#: With ``condition_on_previous_text``: how hot the text may have been that is gone on from.
_FORGET_ABOVE_TEMPERATURE: Final = 0.5
#: What a recording in which nobody speaks is said to be in, as faster-whisper does.
_NO_LANGUAGE: Final = "en"


class WhisperTranscriber:
    """Transcribes with the replicas of one model, by turns and within the ``slots``, which other models may share.

    To be made on a running event loop. ``on_death`` is told when the engine has failed for good.
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

    async def close(self) -> None:
        """Takes no more work; a batch on the model is not waited for."""
        await self._batcher.close()

    async def unload(self) -> None:
        """Takes no more work, and returns when the model is in use no more."""
        await self._batcher.close()
        await self._batcher.idle()

    async def transcribe(
        self, source: Path, options: TranscriptionOptions, *, listener: Listener, synchronous: bool = False
    ) -> Transcript:
        """See :class:`app.transcription.transcriber.Transcriber`."""
        listener.on_waiting()
        recording = Recording(source.with_name(source.name + ".pcm"))
        candidate = self._front_end.admission.enqueue(synchronous=synchronous)
        try:
            await candidate.admitted()
            await listener.on_start()
            whole = await self._come_in(candidate, source, recording, options)
            if whole:
                listener.on_decoded(recording.samples / SAMPLE_RATE)
            run = _Run(self._batcher, self._front_end, self.model, recording, options, listener, awaited=synchronous)
            with _one_failure():
                async with asyncio.TaskGroup() as group:
                    if not whole:
                        group.create_task(self._decode(candidate, source, recording, options, listener))
                    transcript = await run.transcript(group)
            return transcript
        finally:
            candidate.leave()
            await asyncio.to_thread(recording.discard)

    async def _come_in(
        self, candidate: Candidate, source: Path, recording: Recording, options: TranscriptionOptions
    ) -> bool:
        """Wait for admission. Return True if the preview has decoded the whole of the audio."""
        while await candidate.admitted() is Grant.PREVIEW:
            decoded = await self._front_end.decoder.decode(
                source, recording.path, separate_channels=options.multichannel, stop_after_seconds=PREVIEW_SECONDS
            )
            if decoded.is_complete:
                candidate.release_decoder()
                recording.complete(decoded.samples, decoded.channels)
                return True
            candidate.requeue()
        return False

    async def _decode(
        self,
        candidate: Candidate,
        source: Path,
        recording: Recording,
        options: TranscriptionOptions,
        listener: Listener,
    ) -> None:
        decoded = await self._front_end.decoder.decode(
            source, recording.path, separate_channels=options.multichannel, on_progress=recording.grow
        )
        candidate.release_decoder()
        recording.complete(decoded.samples, decoded.channels)
        listener.on_decoded(decoded.duration)


class _Run:
    """One transcription that has been admitted."""

    def __init__(
        self,
        batcher: Batcher,
        front_end: FrontEnd,
        model: WhisperModel,
        recording: Recording,
        options: TranscriptionOptions,
        listener: Listener,
        *,
        awaited: bool,
    ) -> None:
        self._batcher = batcher
        self._front_end = front_end
        self._model = model
        self._recording = recording
        self._options = options
        self._listener = listener
        self._assembly = Assembly(1)
        self._prompt = model.prompt(options)
        self._previous: list[int] = []
        self._request = Request(
            awaited=awaited,
            on_turn=self._turn,
            on_window=self._window,
        )

    async def transcript(self, group: asyncio.TaskGroup) -> Transcript:
        """Runs to the end. The tasks of ``group`` are ours to start in; it ends us when one of them fails."""
        self._batcher.open(self._request)
        try:
            await self._recording.wait_beyond(0)
            channels = self._recording.channels
            self._assembly = Assembly(channels, mark_channels=self._options.multichannel)
            group.create_task(self._search(channels, group))
            await self._request.failure
        finally:
            self._batcher.drop(self._request)
        if rest := self._assembly.take_all():
            self._hand_on(rest, self._recording.samples)
        language = self._options.language or self._request.languages.get(0) or self._any_language()
        return Transcript(
            task=self._options.task,
            language=language_name(language),
            duration=self._recording.samples / SAMPLE_RATE,
            segments=tuple(self._assembly.segments),
        )

    def _any_language(self) -> str:
        return next(iter(self._request.languages.values()), _NO_LANGUAGE)

    async def _search(self, channels: int, group: asyncio.TaskGroup) -> None:
        """Finds the windows of all channels, side by side."""
        searches = [group.create_task(self._search_channel(channel)) for channel in range(channels)]
        await asyncio.gather(*searches)
        self._batcher.completed(self._request)

    async def _search_channel(self, channel: int) -> None:
        options = self._options
        finder = await self._front_end.run(
            lambda: WindowFinder(options.speech_detection, only_speech=options.vad_filter)  # its first use loads Silero
        )
        position = number = 0
        ended = False
        while not ended:
            available = await self._recording.wait_beyond(position)
            ended = available <= position
            end = min(available, position + BLOCK_SAMPLES)
            for window_span in await self._front_end.run(_found, self._recording, finder, channel, Span(position, end)):
                if window_span.samples < HOP_SAMPLES:
                    continue  # less than the model can tell apart
                await self._submit(channel, number, window_span)
                number += 1
            position = end
            self._request.long = self._request.long or position > _LONG_SAMPLES
            self._assembly.set_searched(channel, position if ended else finder.next_start)

    async def _submit(self, channel: int, number: int, window_span: WindowSpan) -> None:
        """Hands a window to the batcher, once there is room for it."""
        await self._room()
        window = Window(
            channel=channel,
            number=number,
            spans=window_span.spans,
            features=await self._front_end.run(_features, self._recording, self._model, channel, window_span),
            task=self._options.task,
            beam_size=self._options.beam_size or self._model.beam_size,
            temperatures=temperatures(self._options),
            prompt=self._model.prompt(self._options, self._previous) if self._previous else self._prompt,
            word_timestamps=self._options.word_timestamps,
            token_logprobs=self._options.token_logprobs,
            language=self._options.language,
        )
        self._assembly.add_window(window)
        self._batcher.submit(self._request, window)

    async def _room(self) -> None:
        """Waits until so few windows are under way that a further one may come."""
        request = self._request
        while request.outstanding >= self._most_outstanding():
            request.room.clear()
            await request.room.wait()

    def _most_outstanding(self) -> int:
        if self._options.condition_on_previous_text:
            return 1
        return self._batcher.most_outstanding if self._request.has_slot else _OUTSTANDING_WAITING

    def _turn(self, has_slot: bool) -> None:  # noqa: FBT001  # the scheduler's callback
        if has_slot:
            self._listener.on_slot_granted()
        else:
            self._listener.on_waiting()
        self._request.room.set()

    def _window(self, window: Window) -> None:
        """Takes a finished window; what is in place now is handed on."""
        if self._options.condition_on_previous_text:
            self._remember(window)
        self._assembly.finish_window(window)
        self._hand_on(self._assembly.take(), self._assembly.samples_done, window.language)

    def _remember(self, window: Window) -> None:
        """The text that the next window goes on from; text that was guessed at is forgotten, as Whisper does."""
        for segment in window.segments:
            if segment.temperature > _FORGET_ABOVE_TEMPERATURE:
                self._previous.clear()
            else:
                self._previous += segment.tokens
        del self._previous[:-MAX_PROMPT_TOKENS]

    def _hand_on(self, segments: tuple[Segment, ...], samples: int, language: str | None = None) -> None:
        self._listener.on_window(
            FinishedWindow(
                segments=segments,
                seconds_done=samples / SAMPLE_RATE,
                duration=self._recording.duration,
                language=language_name(language or self._any_language()),
            )
        )


def _found(recording: Recording, finder: WindowFinder, channel: int, part: Span) -> list[WindowSpan]:
    """The windows that are certain with a further part of the recording; with an empty part, those that are left."""
    if not part.samples:
        return finder.finish()
    return finder.feed(recording.read(channel, part.start, part.end))


def _features(recording: Recording, model: WhisperModel, channel: int, window_span: WindowSpan) -> Array:
    samples = [recording.read(channel, span.start, span.end) for span in window_span.spans]
    return model.features(as_float(np.concatenate(samples)))


@contextmanager
def _one_failure() -> Iterator[None]:
    """What went wrong first, without the group around it: the others were cancelled because of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__
