"""PCM as it arrives → windows of speech of at most 30 s, each as soon as its end is certain.

Speech is found by Silero VAD, whose state is carried from block to block, so that the cuts are those of a pass
over the whole file at once. Each stage below takes what the one before it found and keeps only what it must.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from app.domain.transcript import SpeechDetection

    Samples = npt.NDArray[np.int16]

SAMPLE_RATE: Final = 16_000
#: Whisper sees 30 s at a time.
WINDOW_SAMPLES: Final = 30 * SAMPLE_RATE
#: Silero judges frames of 32 ms, each with the 4 ms before it.
FRAME_SAMPLES: Final = 512
_CONTEXT_SAMPLES: Final = 64
#: What is worth judging at once: Silero takes 50 ms for it on one core.
BLOCK_SAMPLES: Final = 1024 * FRAME_SAMPLES
#: The model takes this much less probability to stay in speech than to enter it.
_HYSTERESIS: Final = 0.15
#: A pause worth cutting at when speech goes on for longer than a window.
_PAUSE_SAMPLES: Final = SAMPLE_RATE * 98 // 1000


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of audio; ``start`` and ``end`` count samples."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """What one window holds: ``pieces`` of the recording one after another, without what lies between them."""

    pieces: tuple[Span, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].start

    @property
    def end(self) -> int:
        return self.pieces[-1].end

    @property
    def samples(self) -> int:
        return sum(piece.samples for piece in self.pieces)

    def with_piece(self, span: Span) -> WindowSpan:
        """The same with a further piece, which may follow without a gap."""
        *before, last = self.pieces
        if span.start == last.end:
            return WindowSpan((*before, Span(last.start, span.end)))
        return WindowSpan((*self.pieces, span))


def as_float(samples: Samples) -> npt.NDArray[np.float32]:
    """Samples as the models want them, -1 to 1."""
    return samples.astype(np.float32) / 32768.0


class WindowFinder:
    """Cuts a recording (16 kHz, one channel) into windows of at most 30 s, in silence where there is any.

    With ``only_speech`` silence is left out, between windows and within them; without, they cover everything. Its
    methods block for as long as Silero computes.
    """

    def __init__(self, detection: SpeechDetection, *, only_speech: bool) -> None:
        padding = self._padding = SAMPLE_RATE * detection.padding_ms // 1000
        self._judge = SpeechJudge()
        self._stretches = Stretches(detection, limit=WINDOW_SAMPLES - FRAME_SAMPLES - 2 * padding)
        self._padded = Padded(padding)
        self._covered = Covered() if not only_speech else None
        self._packed = Packed()
        self._total = 0

    def feed(self, samples: Samples) -> list[WindowSpan]:
        """The windows that are certain with these further samples."""
        self._total += len(samples)
        stretches = self._stretches.add(self._judge.feed(samples))
        return list(self._packed.add(self._cover(self._padded.add(stretches))))

    def finish(self) -> list[WindowSpan]:
        """The windows that are left once there are no more samples."""
        total = self._total
        stretches = [*self._stretches.add(self._judge.finish()), *self._stretches.finish(total)]
        spans = [*self._padded.add(stretches), *self._padded.finish(total)]
        covered = list(self._cover(spans))
        if self._covered is not None:
            covered += self._covered.finish(total)
        return [*self._packed.add(covered), *self._packed.finish()]

    @property
    def certain(self) -> int:
        """Before this sample no further window will begin."""
        pending = [self._stretches.pending, self._padded.pending, self._packed.pending]
        starts = [start for start in pending if start is not None]
        if self._covered is not None:
            starts.append(self._covered.end)
        return max(0, min(starts, default=self._total - FRAME_SAMPLES) - self._padding)

    def _cover(self, spans: Iterable[Span]) -> Iterable[Span]:
        return spans if self._covered is None else self._covered.add(spans)


class SpeechJudge:
    """For every frame of 512 samples the probability that it holds speech."""

    def __init__(self) -> None:
        # Since 1.32 onnxruntime would keep an identifier of this machine on its disk and send events to its maker.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        from faster_whisper.vad import get_vad_model

        self._session: Any = get_vad_model().session
        self._state = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
        self._context = np.zeros((1, _CONTEXT_SAMPLES), np.float32)
        self._rest: Samples = np.zeros(0, np.int16)

    def feed(self, samples: Samples) -> list[float]:
        """The probabilities of the frames that are complete with these samples."""
        samples = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        whole = len(samples) - len(samples) % FRAME_SAMPLES
        self._rest = samples[whole:].copy()
        found: list[float] = []
        for start in range(0, whole, BLOCK_SAMPLES):
            found += self._run(as_float(samples[start : min(start + BLOCK_SAMPLES, whole)]))
        return found

    def finish(self) -> list[float]:
        """That of the last frame, padded with zeros; as faster-whisper does, also if no sample is left for it."""
        return self._run(as_float(np.pad(self._rest, (0, FRAME_SAMPLES - len(self._rest)))))

    def _run(self, samples: npt.NDArray[np.float32]) -> list[float]:
        frames = samples.reshape(-1, FRAME_SAMPLES)
        tails = np.concatenate([self._context, frames[:, -_CONTEXT_SAMPLES:]])
        self._context = tails[-1:]
        output, self._state["h"], self._state["c"] = self._session.run(
            None, {"input": np.concatenate([tails[:-1], frames], axis=1), **self._state}
        )
        probabilities: list[float] = output.ravel().tolist()
        return probabilities


class Stretches:
    """Silero's rules: enter speech above the threshold, leave it after a silence, cut what exceeds the limit."""

    def __init__(self, detection: SpeechDetection, *, limit: int) -> None:
        self._threshold = detection.threshold
        self._release = max(detection.threshold - _HYSTERESIS, 0.01)
        self._min_silence = SAMPLE_RATE * detection.min_silence_ms // 1000
        self._limit = limit
        self._cutter = _Cutter()
        self._frames = 0

    @property
    def pending(self) -> int | None:
        """Where the stretch that has not ended begins."""
        return self._cutter.start

    def add(self, probabilities: Iterable[float]) -> Iterator[Span]:
        for probability in probabilities:
            at = self._frames * FRAME_SAMPLES
            self._frames += 1
            yield from self._judged(at, probability)

    def finish(self, total: int) -> Iterator[Span]:
        if self._cutter.start is not None and self._cutter.start < total:
            yield Span(self._cutter.start, total)

    def _judged(self, at: int, probability: float) -> Iterator[Span]:
        cutter = self._cutter
        if probability >= self._threshold and cutter.speech(at):
            return
        if cutter.start is not None and at - cutter.start > self._limit:
            yield cutter.cut(at)
        if probability < self._release and cutter.start is not None:
            found = cutter.silence(at, self._min_silence)
            if found is not None:
                yield found


class _Cutter:
    """Where the present stretch of speech began, and where it could be cut."""

    def __init__(self) -> None:
        self.start: int | None = None
        self._silent_since: int | None = None
        self._pause: Span | None = None  # the last silence long enough to cut in, up to where speech went on

    def speech(self, at: int) -> bool:
        """Takes a frame of speech; whether a stretch begins with it."""
        begins = self.start is None
        if self.start is None:
            self.start = at
        if self._silent_since is not None and self._pause is not None and self._pause.end <= self._pause.start:
            self._pause = Span(self._pause.start, at)
        self._silent_since = None
        return begins

    def silence(self, at: int, min_silence: int) -> Span | None:
        """The stretch that this silence ends, once it has lasted long enough."""
        if self._silent_since is None:
            self._silent_since = at
        if at - self._silent_since > _PAUSE_SAMPLES:
            self._pause = Span(self._silent_since, self._silent_since)
        if at - self._silent_since < min_silence or self.start is None:
            return None
        return self._finish(self._silent_since, goes_on_at=None)

    def cut(self, at: int) -> Span:
        """The stretch so far, up to its last pause, or to here if it had none."""
        if self._pause is None:
            return self._finish(at, goes_on_at=None)
        resumed = self._pause.end > self._pause.start
        return self._finish(self._pause.start, goes_on_at=self._pause.end if resumed else None)

    def _finish(self, end: int, *, goes_on_at: int | None) -> Span:
        assert self.start is not None  # noqa: S101  # every caller has looked
        found = Span(self.start, end)
        self.start, self._silent_since, self._pause = goes_on_at, None, None
        return found


class Padded:
    """The stretches with some of the silence around them, as much as two neighbours can share."""

    def __init__(self, padding: int) -> None:
        self._padding = padding
        self._before: Span | None = None

    @property
    def pending(self) -> int | None:
        return None if self._before is None else self._before.start

    def add(self, stretches: Iterable[Span]) -> Iterator[Span]:
        for found in stretches:
            before, self._before = self._before, Span(max(0, found.start - self._padding), found.end)
            if before is not None:
                room = min(self._padding, (found.start - before.end) // 2)
                self._before = Span(found.start - room, found.end)
                yield Span(before.start, before.end + room)

    def finish(self, total: int) -> Iterator[Span]:
        if self._before is not None:
            yield Span(self._before.start, min(total, self._before.end + self._padding))


class Covered:
    """The stretches of speech and what lies between them, none longer than a window."""

    def __init__(self) -> None:
        self.end = 0

    def add(self, spans: Iterable[Span]) -> Iterator[Span]:
        for span in spans:
            yield from _chopped(Span(self.end, span.start))
            yield span
            self.end = span.end

    def finish(self, total: int) -> Iterator[Span]:
        yield from _chopped(Span(self.end, total))


def _chopped(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, WINDOW_SAMPLES):
        yield Span(start, min(start + WINDOW_SAMPLES, span.end))


class Packed:
    """Neighbours together, as many as fit into one window."""

    def __init__(self) -> None:
        self._cut: WindowSpan | None = None

    @property
    def pending(self) -> int | None:
        return None if self._cut is None else self._cut.start

    def add(self, spans: Iterable[Span]) -> Iterator[WindowSpan]:
        for span in spans:
            before, self._cut = self._cut, WindowSpan((span,))
            if before is None:
                continue
            if before.samples + span.samples <= WINDOW_SAMPLES:
                self._cut = before.with_piece(span)
            else:
                yield before

    def finish(self) -> Iterator[WindowSpan]:
        if self._cut is not None:
            yield self._cut
