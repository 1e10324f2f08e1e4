"""Voice activity detection: PCM, as it arrives, becomes windows of at most 30 s, each as soon as its end is certain.

Silero VAD computes the speech probability of each frame of 32 ms. Its state is carried from block to block, so the
result is that of one pass over the whole file. The stages below each take the output of the one before:
:class:`SpeechDetector` (probabilities), :class:`SpeechSegmenter` (spans of speech), :class:`ClearSpeech`,
:class:`SpanPadder`, :class:`GapFiller` (only if silence is kept) and :class:`WindowPacker`. :class:`PauseFinder` notes
the pauses that are left inside windows.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.domain.telemetry import disable_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from app.domain.transcript import SpeechDetection

    Samples = npt.NDArray[np.int16]

SAMPLE_RATE: Final = 16_000
#: Whisper sees 30 s at a time.
WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE
#: Silero takes frames of 32 ms, each with the 4 ms before it.
FRAME_SAMPLES: Final = 512
_CONTEXT_SAMPLES: Final = 64
#: The samples of one call of Silero, which takes 50 ms for them on one core.
BLOCK_SAMPLES: Final = 1024 * FRAME_SAMPLES
#: Speech ends below a probability that is this much lower than the one it begins at.
_HYSTERESIS: Final = 0.15
#: Shorter speech, 250 ms, has to be more probable: this much above the threshold, or certain.
_MIN_SPEECH_SAMPLES: Final = SAMPLE_RATE * 250 // 1000
_CLEAR: Final = 0.3
_CERTAIN: Final = 0.95
#: The shortest pause, 98 ms, in which speech that is longer than a window is split.
_PAUSE_SAMPLES: Final = SAMPLE_RATE * 98 // 1000
#: A pause after which another language can be spoken: 1 s.
_LANGUAGE_PAUSE_SAMPLES: Final = SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a recording, from sample ``start`` up to sample ``end``."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """The parts of a recording that one window holds: ``spans`` in order, without what lies between them.

    ``has_speech`` is False if speech was detected in none of them. Nobody speaks during ``pauses``, which may include
    some of what lies between the spans.
    """

    spans: tuple[Span, ...]
    has_speech: bool = True
    pauses: tuple[Span, ...] = ()

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def end(self) -> int:
        return self.spans[-1].end

    @property
    def samples(self) -> int:
        """The number of samples, without those between the spans."""
        return sum(span.samples for span in self.spans)

    def joined(self, other: WindowSpan) -> WindowSpan:
        """Return a window that also holds what follows in ``other``; spans without a gap become one."""
        *before, last = self.spans
        first, *after = other.spans
        middle = (Span(last.start, first.end),) if first.start == last.end else (last, first)
        return WindowSpan((*before, *middle, *after), has_speech=self.has_speech or other.has_speech)


def as_float(samples: Samples, gain: float = 1.0) -> npt.NDArray[np.float32]:
    """Convert samples to floats from -1 to 1, as the models expect them, times ``gain``, which may exceed that."""
    return samples.astype(np.float32) * np.float32(gain / 32768.0)


class WindowFinder:
    """Divides a recording (16 kHz, one channel) into windows of at most 30 s, in silence if possible.

    With ``only_speech`` silence is left out, between windows and within them. Otherwise the windows cover the whole
    recording. With ``several_languages`` a window ends where at least 1 s of silence is left out, so that few windows
    hold two of them. The methods block while Silero computes.
    """

    def __init__(self, detection: SpeechDetection, *, only_speech: bool, several_languages: bool = False) -> None:
        self._padding = SAMPLE_RATE * detection.padding_ms // 1000
        self._detector = SpeechDetector()
        self._clear_speech = ClearSpeech(detection)
        self._segmenter = SpeechSegmenter(detection, max_samples=WINDOW_SAMPLES - FRAME_SAMPLES - 2 * self._padding)
        self._padder = SpanPadder(self._padding)
        self._gap_filler = None if only_speech else GapFiller()
        longest_pause = _LANGUAGE_PAUSE_SAMPLES - 2 * self._padding if several_languages else None
        self._packer = WindowPacker(longest_pause)
        self._pauses = PauseFinder(detection)
        self._total = 0

    def feed(self, samples: Samples, *, gain: float = 1.0) -> list[WindowSpan]:
        """Take further samples, to be amplified by ``gain``, and return the windows that are complete now."""
        self._total += len(samples)
        speech = self._speech(self._detector.feed(samples, gain=gain))
        return self._with_pauses(self._packer.add(self._with_gaps(self._padder.add(speech))))

    def finish(self) -> list[WindowSpan]:
        """Return the remaining windows at the end of the recording."""
        total = self._total
        speech = [
            *self._speech(self._detector.finish()),
            *self._clear_speech.only(self._segmenter.finish(total)),
        ]
        padded = [*self._padder.add(speech), *self._padder.finish(total)]
        spans = list(self._with_gaps(padded))
        if self._gap_filler is not None:
            spans += self._gap_filler.finish(total)
        return self._with_pauses([*self._packer.add(spans), *self._packer.finish()])

    @property
    def next_start(self) -> int:
        """The earliest sample at which a window that has not been returned yet can start."""
        pending = [self._segmenter.pending_start, self._padder.pending_start, self._packer.pending_start]
        starts = [start for start in pending if start is not None]
        if self._gap_filler is not None:
            starts.append(self._gap_filler.end)
        return max(0, min(starts, default=self._total - FRAME_SAMPLES) - self._padding)

    def _speech(self, probabilities: list[float]) -> list[Span]:
        self._pauses.note(probabilities)
        self._clear_speech.note(probabilities)
        speech = list(self._clear_speech.only(self._segmenter.add(probabilities)))
        self._clear_speech.forget(before=self._segmenter.pending_start)
        return speech

    def _with_pauses(self, windows: Iterable[WindowSpan]) -> list[WindowSpan]:
        return [replace(window, pauses=self._pauses.take(window)) for window in windows]

    def _with_gaps(self, spans: Iterable[Span]) -> Iterable[WindowSpan]:
        return map(_spoken, spans) if self._gap_filler is None else self._gap_filler.add(spans)


class SpeechDetector:
    """Computes the probability that a frame of 512 samples holds speech, frame after frame."""

    def __init__(self) -> None:
        disable_telemetry()
        from faster_whisper.vad import get_vad_model

        self._session: Any = get_vad_model().session
        self._state = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
        self._context = np.zeros((1, _CONTEXT_SAMPLES), np.float32)
        self._rest: Samples = np.zeros(0, np.int16)
        self._gain = 1.0

    def feed(self, samples: Samples, *, gain: float = 1.0) -> list[float]:
        """Return the probabilities of the frames that are complete with these samples, amplified by ``gain``."""
        self._gain = gain
        samples = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        complete = len(samples) - len(samples) % FRAME_SAMPLES
        self._rest = samples[complete:].copy()
        probabilities: list[float] = []
        for start in range(0, complete, BLOCK_SAMPLES):
            probabilities += self._run(as_float(samples[start : min(start + BLOCK_SAMPLES, complete)], gain))
        return probabilities

    def finish(self) -> list[float]:
        """Return the probability of the last frame, padded with zeros.

        As in faster-whisper there is such a frame even if no sample is left for it.
        """
        return self._run(as_float(np.pad(self._rest, (0, FRAME_SAMPLES - len(self._rest))), self._gain))

    def _run(self, samples: npt.NDArray[np.float32]) -> list[float]:
        frames = samples.reshape(-1, FRAME_SAMPLES)
        contexts = np.concatenate([self._context, frames[:, -_CONTEXT_SAMPLES:]])
        self._context = contexts[-1:]
        output, self._state["h"], self._state["c"] = self._session.run(
            None, {"input": np.concatenate([contexts[:-1], frames], axis=1), **self._state}
        )
        probabilities: list[float] = output.ravel().tolist()
        return probabilities


class SpeechSegmenter:
    """Silero's rules: speech begins above a threshold, ends after a silence, and is split if it is too long.

    The rules, and thereby the spans, are those of ``get_speech_timestamps`` in faster-whisper.
    """

    def __init__(self, detection: SpeechDetection, *, max_samples: int) -> None:
        self._threshold = detection.threshold
        self._end_threshold = _end_threshold(detection)
        self._min_silence = SAMPLE_RATE * detection.min_silence_ms // 1000
        self._max_samples = max_samples
        self._speech = _OpenSpeech()
        self._frames = 0

    @property
    def pending_start(self) -> int | None:
        """The start of the speech that has not ended yet."""
        return self._speech.start

    def add(self, probabilities: Iterable[float]) -> Iterator[Span]:
        for probability in probabilities:
            position = self._frames * FRAME_SAMPLES
            self._frames += 1
            yield from self._add_frame(position, probability)

    def finish(self, total: int) -> Iterator[Span]:
        if self._speech.start is not None and self._speech.start < total:
            yield Span(self._speech.start, total)

    def _add_frame(self, position: int, probability: float) -> Iterator[Span]:
        speech = self._speech
        if probability >= self._threshold and speech.continue_at(position):
            return
        if speech.start is not None and position - speech.start > self._max_samples:
            yield speech.split(position)
        if probability < self._end_threshold and speech.start is not None:
            ended = speech.add_silence(position, self._min_silence)
            if ended is not None:
                yield ended


def _end_threshold(detection: SpeechDetection) -> float:
    return max(detection.threshold - _HYSTERESIS, 0.01) if detection.end_threshold is None else detection.end_threshold


class PauseFinder:
    """Notes the pauses, in which the probability is below the one at which speech ends for at least 98 ms."""

    def __init__(self, detection: SpeechDetection) -> None:
        self._threshold = _end_threshold(detection)
        self._pauses: deque[Span] = deque()
        self._silent_since: int | None = None
        self._frames = 0

    def note(self, probabilities: list[float]) -> None:
        """Take the probabilities of further frames."""
        for probability in probabilities:
            position = self._frames * FRAME_SAMPLES
            self._frames += 1
            if probability < self._threshold:
                self._silent_since = position if self._silent_since is None else self._silent_since
            elif self._silent_since is not None:
                self._pauses += _as_pause(Span(self._silent_since, position))
                self._silent_since = None

    def take(self, window: WindowSpan) -> tuple[Span, ...]:
        """Return the pauses within a window, and forget those before it: later windows need neither."""
        while self._pauses and self._pauses[0].end <= window.start:
            self._pauses.popleft()
        pauses = list(self._pauses)
        if self._silent_since is not None:
            pauses += _as_pause(Span(self._silent_since, self._frames * FRAME_SAMPLES))
        return tuple(
            Span(max(pause.start, window.start), min(pause.end, window.end))
            for pause in pauses
            if pause.start < window.end and window.start < pause.end
        )


def _as_pause(silence: Span) -> list[Span]:
    return [silence] if silence.samples > _PAUSE_SAMPLES else []


class _OpenSpeech:
    """Speech that has not ended, with the last pause in which it can be split."""

    def __init__(self) -> None:
        self.start: int | None = None
        self._silent_since: int | None = None
        self._pause: Span | None = None  # empty until the speech goes on after it

    def continue_at(self, position: int) -> bool:
        """Add a frame of speech. Return True if it is the first one."""
        is_first = self.start is None
        if self.start is None:
            self.start = position
        if self._silent_since is not None and self._pause is not None and self._pause.end <= self._pause.start:
            self._pause = Span(self._pause.start, position)
        self._silent_since = None
        return is_first

    def add_silence(self, position: int, min_silence: int) -> Span | None:
        """Add a frame of silence. Return the speech that it ends, once the silence is long enough."""
        if self._silent_since is None:
            self._silent_since = position
        if position - self._silent_since > _PAUSE_SAMPLES:
            self._pause = Span(self._silent_since, self._silent_since)
        if position - self._silent_since < min_silence or self.start is None:
            return None
        return self._close(self._silent_since, next_start=None)

    def split(self, position: int) -> Span:
        """End the speech at its last pause, or at ``position`` if there was none, and return it."""
        if self._pause is None:
            return self._close(position, next_start=None)
        has_resumed = self._pause.end > self._pause.start
        return self._close(self._pause.start, next_start=self._pause.end if has_resumed else None)

    def _close(self, end: int, *, next_start: int | None) -> Span:
        assert self.start is not None  # noqa: S101  # checked by every caller
        span = Span(self.start, end)
        self.start, self._silent_since, self._pause = next_start, None, None
        return span


class ClearSpeech:
    """Leaves out spans of speech that are very short and at no time much more probable than the threshold.

    Where nobody speaks, Silero finds such spans: of 334 in real recordings, the 8 that are left out include all 4 in
    those without speech. Silero's own programs leave out everything that is shorter than 250 ms, also short words. What
    is shorter than the ``min_speech_ms`` of the detection is left out in any case.
    """

    def __init__(self, detection: SpeechDetection) -> None:
        self._clear = min(detection.threshold + _CLEAR, _CERTAIN)
        self._min_samples = SAMPLE_RATE * detection.min_speech_ms // 1000
        self._probabilities: list[float] = []
        self._first_frame = 0

    def note(self, probabilities: list[float]) -> None:
        """Take the probabilities of further frames."""
        self._probabilities += probabilities

    def only(self, spans: Iterable[Span]) -> Iterator[Span]:
        """Yield the spans of clear speech."""
        return (
            span
            for span in spans
            if span.samples >= self._min_samples
            and (span.samples >= _MIN_SPEECH_SAMPLES or self._peak(span) >= self._clear)
        )

    def forget(self, *, before: int | None) -> None:
        """Drop the probabilities before a sample, from which on speech may follow, or all."""
        frames = len(self._probabilities) if before is None else max(0, before // FRAME_SAMPLES - self._first_frame)
        del self._probabilities[:frames]
        self._first_frame += frames

    def _peak(self, span: Span) -> float:
        first, end = span.start // FRAME_SAMPLES, -(-span.end // FRAME_SAMPLES)
        return max(self._probabilities[first - self._first_frame : end - self._first_frame], default=0.0)


class SpanPadder:
    """Extends spans of speech into the silence around them; two neighbours share a silence that is short."""

    def __init__(self, padding: int) -> None:
        self._padding = padding
        self._last: Span | None = None

    @property
    def pending_start(self) -> int | None:
        return None if self._last is None else self._last.start

    def add(self, spans: Iterable[Span]) -> Iterator[Span]:
        for span in spans:
            last, self._last = self._last, Span(max(0, span.start - self._padding), span.end)
            if last is not None:
                padding = min(self._padding, (span.start - last.end) // 2)
                self._last = Span(span.start - padding, span.end)
                yield Span(last.start, last.end + padding)

    def finish(self, total: int) -> Iterator[Span]:
        if self._last is not None:
            yield Span(self._last.start, min(total, self._last.end + self._padding))


class GapFiller:
    """Adds the gaps between spans, in spans of at most the length of a window."""

    def __init__(self) -> None:
        self.end = 0

    def add(self, spans: Iterable[Span]) -> Iterator[WindowSpan]:
        for span in spans:
            yield from _split_gap(Span(self.end, span.start))
            yield _spoken(span)
            self.end = span.end

    def finish(self, total: int) -> Iterator[WindowSpan]:
        yield from _split_gap(Span(self.end, total))


def _spoken(span: Span) -> WindowSpan:
    return WindowSpan((span,))


def _split_gap(gap: Span) -> Iterator[WindowSpan]:
    for start in range(gap.start, gap.end, WINDOW_SAMPLES):
        yield WindowSpan((Span(start, min(start + WINDOW_SAMPLES, gap.end)),), has_speech=False)


class WindowPacker:
    """Puts as many consecutive spans, each as a window of its own, into each window as fit.

    If ``longest_pause`` is given, a window ends where this many samples or more are left out between two spans.
    """

    def __init__(self, longest_pause: int | None = None) -> None:
        self._longest_pause = math.inf if longest_pause is None else max(1, longest_pause)
        self._window: WindowSpan | None = None

    @property
    def pending_start(self) -> int | None:
        return None if self._window is None else self._window.start

    def add(self, pieces: Iterable[WindowSpan]) -> Iterator[WindowSpan]:
        for piece in pieces:
            window, self._window = self._window, piece
            if window is None:
                continue
            pause = piece.start - window.end
            if window.samples + piece.samples <= WINDOW_SAMPLES and pause < self._longest_pause:
                self._window = window.joined(piece)
            else:
                yield window

    def finish(self) -> Iterator[WindowSpan]:
        if self._window is not None:
            yield self._window
