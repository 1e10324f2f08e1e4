"""The transcription of one file: its windows are found and submitted, and their segments put in order.

Only the PCM of the file, on disk, and the transcript are held as a whole: finding windows runs ahead of the model by a
few of them and then waits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.languages import CHINESE, language_name
from app.domain.transcript import Task, Transcript
from app.transcription.admission import PREVIEW_SECONDS
from app.transcription.chinese_script import load_dictionaries
from app.transcription.features import HOP_SAMPLES
from app.transcription.loudness import Loudness
from app.transcription.peaks import Peaks
from app.transcription.segments import Assembly
from app.transcription.transcriber import FinishedWindow
from app.transcription.transcription import Transcription
from app.transcription.vad import SAMPLE_RATE, Span, WindowFinder, WindowSpan, as_float
from app.transcription.whisper import MAX_PROMPT_TOKENS, temperatures
from app.transcription.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from app.domain.transcript import Segment, TranscriptionOptions
    from app.domain.waveform import Waveform
    from app.transcription.admission import FrontEnd
    from app.transcription.batcher import Batcher
    from app.transcription.recording import Recording
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel
    from app.transcription.window import Array

#: Windows that a transcription may have submitted while it has no slot.
_MAX_OUTSTANDING_WITHOUT_SLOT: Final = 2
#: The part of a recording that is searched at once: 30 s, after which the decoder reports its progress. The level of a
#: quiet recording and its peaks are measured in these parts, whenever they arrive.
_BLOCK_SAMPLES: Final = 30 * SAMPLE_RATE
#: A transcription is not short if more of its recording has been searched, whatever is found in the rest.
_LONG_SAMPLES: Final = round(PREVIEW_SECONDS * SAMPLE_RATE)
#: With ``condition_on_previous_text``, text decoded at a higher temperature is not passed on (as in Whisper).
_MAX_CONTEXT_TEMPERATURE: Final = 0.5
_ESTIMATED_WORDS: Final = (
    "The times of some words are estimated from their segments, because they could not be measured."
)
_UNCERTAIN_TEXT: Final = (
    "The text of some segments is probably wrong, because the model found no probable one: verbose_json marks them as "
    "`uncertain`."
)
#: The language of a recording without speech, as in faster-whisper.
_NO_LANGUAGE: Final = "en"


class FileTranscription(Transcription):
    """The transcription of one recording, from finding its windows to assembling their segments.

    The segments are made in the ``text_thread`` of the engine, while the device goes on with other windows.
    """

    def __init__(
        self,
        batcher: Batcher,
        front_end: FrontEnd,
        model: WhisperModel,
        recording: Recording,
        options: TranscriptionOptions,
        listener: Listener,
        *,
        text_thread: Executor,
        synchronous: bool,
    ) -> None:
        super().__init__(synchronous=synchronous)
        self._text_thread = text_thread
        self._batcher = batcher
        self._front_end = front_end
        self._model = model
        self._recording = recording
        self._options = options
        self._listener = listener
        self._assembly = Assembly(1)
        self._prompt = model.prompt(options)
        self._previous_tokens: list[int] = []
        self._capacity_changed = asyncio.Event()
        self._preparing = 0
        self._has_estimated_words = False
        self._language_probabilities: dict[str, float] = {}
        self._loudness = Loudness()
        self._peaks = Peaks(1)

    @property
    def waveform(self) -> Waveform:
        """The waveform of the recording, once it has been transcribed."""
        return self._peaks.waveform(self._recording.samples / SAMPLE_RATE)

    async def run(self, group: asyncio.TaskGroup) -> Transcript:
        """Transcribe the recording with tasks in ``group``, which cancels this one if any of them fails."""
        self._batcher.open(self)
        try:
            await self._recording.wait_beyond(0)
            channels = self._recording.channels
            self._peaks = Peaks(channels)
            self._assembly = Assembly(
                channels,
                mark_channels=self._options.multichannel,
                script=self._options.script,
                prompt=self._options.prompt,
                replacements=self._options.replacements,
            )
            group.create_task(self._submit_windows(channels, group))
            await self.wait_until_ended()
        finally:
            self._batcher.drop(self)
        samples = self._assembly.samples_done if self._options.only_language else self._recording.samples
        if rest := self._assembly.take_all():
            self._report(rest, samples)
        return self._transcript(samples)

    def _transcript(self, samples: int) -> Transcript:
        segments = tuple(self._assembly.segments)
        spoken = _spoken_languages(segments)
        is_mixed = len(spoken) > 1
        language = self._options.known_language or self._any_language()
        if spoken and self._options.languages:
            language = spoken[0]
        return Transcript(
            task=self._options.task,
            language=language_name(language),
            duration=samples / SAMPLE_RATE,
            segments=segments if is_mixed else _without_languages(segments),
            warnings=tuple(self._warnings()),
            language_probability=self._language_probabilities.get(language),
            languages=spoken if is_mixed or self._options.languages else None,
            prompt_tokens=max(0, len(self._prompt) - 1),  # without the one that starts it
            output_tokens=sum(token < self._model.first_timestamp for segment in segments for token in segment.tokens),
        )

    def _warnings(self) -> Iterator[str]:
        yield from self._recording.warnings
        if (decibels := self._loudness.quiet_decibels) is not None:
            yield (
                f"The recording is very quiet ({decibels:.0f} dB of full scale), so words may be missing or wrong. "
                "Record it at a higher level."
            )
        if self._has_estimated_words:
            yield _ESTIMATED_WORDS
        if any(segment.uncertain for segment in self._assembly.segments):
            yield _UNCERTAIN_TEXT

    def on_slot_granted(self) -> None:
        self._listener.on_slot_granted()
        self._capacity_changed.set()

    def on_slot_taken_back(self) -> None:
        self._listener.on_waiting()
        self._capacity_changed.set()

    def on_window(self, window: Window) -> None:
        self.unwritten += 1
        segments = asyncio.get_running_loop().run_in_executor(self._text_thread, _segments, window)
        segments.add_done_callback(partial(self._finish, window))

    def _finish(self, window: Window, segments: asyncio.Future[tuple[Segment, ...]]) -> None:
        self.unwritten -= 1
        if not segments.cancelled():
            try:
                result = segments.result()  # also if nobody needs it, so that no error is reported as unnoticed
                if not self.dropped:
                    self._take_segments(window, result)
            except Exception as exc:  # noqa: BLE001  # otherwise the transcription would wait for ever
                self.fail(exc)
        self.end_if_done()

    def _take_segments(self, window: Window, segments: Sequence[Segment]) -> None:
        """Add the segments of a window to the transcript."""
        if self._options.condition_on_previous_text:
            self._remember_text(segments)
        self._has_estimated_words |= window.has_estimated_words
        self._keep_probability(window)
        self._assembly.finish_window(window.channel, window.number, segments, is_chinese=_is_chinese(window))
        self._report(self._assembly.take(), self._assembly.samples_done, window.language)
        self._capacity_changed.set()

    def _keep_probability(self, window: Window) -> None:
        """Keep the highest probability with which a language was detected."""
        for guess in window.guesses:
            if guess.code == window.language:
                known = self._language_probabilities.get(guess.code, 0.0)
                self._language_probabilities[guess.code] = max(known, guess.probability)

    async def _submit_windows(self, channels: int, group: asyncio.TaskGroup) -> None:
        """Submit the windows of all channels, side by side."""
        await asyncio.gather(*(group.create_task(self._submit_channel(channel)) for channel in range(channels)))
        self._batcher.complete(self)

    async def _submit_channel(self, channel: int) -> None:
        """Find the windows of a channel while it is still being decoded, and submit each.

        Their features are computed side by side, and while the search goes on.
        """
        options = self._options
        finder = await self._front_end.run(  # the first use loads Silero
            WindowFinder,
            options.speech_detection,
            only_speech=options.vad_filter,
            several_languages=len(options.languages) > 1,
        )
        position = number = 0
        ended = False
        previous: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            while not (ended or self._is_heard_enough(channel)):
                available = await self._recording.wait_beyond(position + _BLOCK_SAMPLES - 1)
                block = Span(position, min(available, position + _BLOCK_SAMPLES))
                ended = self._recording.is_complete and block.end == available
                windows = await self._front_end.run(self._find_windows, finder, channel, block, is_last=ended)
                # Without voice activity detection, what would be amplified may be anything.
                gain = self._loudness.gain if options.vad_filter else 1.0
                for window_span in windows:
                    if window_span.samples < HOP_SAMPLES:  # its spectrogram would have no frame
                        continue
                    await self._wait_for_capacity()
                    if self._is_heard_enough(channel):
                        self._assembly.set_searched(channel, window_span.start)
                        return
                    self._preparing += 1
                    self._assembly.add_window(channel, number, start=window_span.start)
                    previous = group.create_task(self._submit(channel, number, window_span, gain=gain, after=previous))
                    number += 1
                position = block.end
                self.known_long = self.known_long or position > _LONG_SAMPLES
                self._assembly.set_searched(channel, position if ended else finder.next_start)

    async def _submit(
        self,
        channel: int,
        number: int,
        window_span: WindowSpan,
        *,
        gain: float,
        after: asyncio.Task[None] | None,
    ) -> None:
        """Compute the features of a window and submit it after the previous one, whose language it takes on."""
        features = await self._front_end.run_soon(
            _features, self._recording, self._model, channel, window_span, gain=gain
        )
        if after is not None:
            await after
        window = Window(
            channel=channel,
            number=number,
            spans=window_span.spans,
            pauses=window_span.pauses,
            features=features,
            task=self._options.task,
            beam_size=self._options.beam_size or self._model.beam_size,
            temperatures=temperatures(self._options, has_speech=window_span.has_speech),
            thresholds=self._model.thresholds.of(self._options),
            has_speech=window_span.has_speech,
            prompt=self._next_prompt(),
            word_timestamps=self._options.word_timestamps,
            token_logprobs=self._options.token_logprobs,
            only_language=self._options.only_language,
            language=self._options.known_language,
            candidates=self._options.languages,
        )
        self._preparing -= 1
        self._batcher.submit(self, self._prepared(window))

    def _prepared(self, window: Window) -> Window:
        """Return a window as it is to be decoded."""
        return window

    def _find_windows(self, finder: WindowFinder, channel: int, block: Span, *, is_last: bool) -> list[WindowSpan]:
        """Return the windows that are complete with a further block, which may be empty if it is the last one."""
        windows: list[WindowSpan] = []
        if block.samples:
            samples = self._recording.read(channel, block.start, block.end)
            self._peaks.add(channel, samples)
            if self._recording.channels == 1:  # a quiet channel among several hears the speakers of the others
                self._loudness.add(samples)
            windows = finder.feed(samples, gain=self._loudness.gain)
        return windows + finder.finish() if is_last else windows

    async def _wait_for_capacity(self) -> None:
        while self._preparing + self.outstanding + self.unwritten >= self._max_outstanding():
            self._capacity_changed.clear()
            await self._capacity_changed.wait()

    def _is_heard_enough(self, channel: int) -> bool:
        """Return True if nothing but the language counts, and that of the channel is settled."""
        return self._options.only_language and self.languages[channel].code is not None

    def _max_outstanding(self) -> int:
        if self._options.condition_on_previous_text or self._options.only_language:
            return 1
        return self._batcher.max_outstanding if self.has_slot else _MAX_OUTSTANDING_WITHOUT_SLOT

    def _next_prompt(self) -> tuple[int, ...]:
        if not self._previous_tokens:
            return self._prompt
        return self._model.prompt(self._options, self._previous_tokens)

    def _remember_text(self, segments: Sequence[Segment]) -> None:
        """Keep the text for the prompt of the next window, or forget all text if it was sampled (as in Whisper)."""
        for segment in segments:
            if segment.temperature > _MAX_CONTEXT_TEMPERATURE:
                self._previous_tokens.clear()
            else:
                self._previous_tokens += segment.tokens
        del self._previous_tokens[:-MAX_PROMPT_TOKENS]

    def _report(self, segments: tuple[Segment, ...], samples_done: int, language: str | None = None) -> None:
        self._listener.on_window(
            FinishedWindow(
                segments=segments if len(self._options.languages) > 1 else _without_languages(segments),
                seconds_done=samples_done / SAMPLE_RATE,
                duration=self._recording.duration,
                language=language_name(language or self._any_language()),
            )
        )

    def _any_language(self) -> str:
        """Return the language of the first channel that has one."""
        known = (self.languages[channel].best for channel in sorted(self.languages))
        return next((code for code in known if code is not None), _NO_LANGUAGE)


def _spoken_languages(segments: Sequence[Segment]) -> tuple[str, ...]:
    """Return the codes of the languages of segments, the one that is spoken for the longest time first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for segment in segments:
        if segment.language is not None:
            seconds[segment.language] += segment.end - segment.start
    return tuple(sorted(seconds, key=seconds.__getitem__, reverse=True))


def _without_languages(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    return tuple(replace(segment, language=None) for segment in segments)


def _segments(window: Window) -> tuple[Segment, ...]:
    if _is_chinese(window):
        load_dictionaries()
    return window.segments()


def _is_chinese(window: Window) -> bool:
    return window.language in CHINESE and window.task is Task.TRANSCRIBE


def _features(
    recording: Recording, model: WhisperModel, channel: int, window_span: WindowSpan, *, gain: float
) -> Array:
    samples = [recording.read(channel, span.start, span.end) for span in window_span.spans]
    return model.features(as_float(np.concatenate(samples), gain))
