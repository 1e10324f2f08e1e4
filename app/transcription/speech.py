"""PCM on disk → windows of speech of at most 30 s, one after another, never the whole file in memory.

Speech is found by Silero VAD, whose state is carried from block to block, so that the cuts are those of a pass
over the whole file at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
_BLOCK_FRAMES: Final = 1024
#: The model takes this much less probability to stay in speech than to enter it.
_HYSTERESIS: Final = 0.15
#: A pause worth cutting at when speech goes on for longer than a window.
_PAUSE_SAMPLES: Final = SAMPLE_RATE * 98 // 1000
#: Stretches of speech further apart than this are not put into one window: Whisper invents text in long silence.
_MAX_GAP_SAMPLES: Final = 3 * SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of audio; ``start`` and ``end`` count samples."""

    start: int
    end: int

    @property
    def samples(self) -> int:
        return self.end - self.start


def windows(pcm: Samples, detection: SpeechDetection, *, only_speech: bool) -> Iterator[Span]:
    """The windows of ``pcm`` (16 kHz, shape ``(samples,)``), each at most 30 s, cut in silence where there is any.

    With ``only_speech`` what lies between them holds no speech; without, they cover everything.
    """
    spans = speech_spans(probabilities(pcm), detection, total=len(pcm))
    return _pack(spans if only_speech else _covering(spans, total=len(pcm)))


def as_float(pcm: Samples, span: Span) -> npt.NDArray[np.float32]:
    """The samples of a span, -1 to 1."""
    return pcm[span.start : span.end].astype(np.float32) / 32768.0


def probabilities(pcm: Samples) -> Iterator[float]:
    """For every frame of 512 samples the probability that it holds speech; the last frame is padded with zeros."""
    from faster_whisper.vad import get_vad_model

    session = get_vad_model().session
    state = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
    context = np.zeros((1, _CONTEXT_SAMPLES), np.float32)
    block = _BLOCK_FRAMES * FRAME_SAMPLES
    for start in range(0, len(pcm) + 1, block):
        samples = as_float(pcm, Span(start, start + block))
        if len(samples) < block:
            samples = np.pad(samples, (0, FRAME_SAMPLES - len(samples) % FRAME_SAMPLES))
        frames = samples.reshape(-1, FRAME_SAMPLES)
        tails = np.concatenate([context, frames[:, -_CONTEXT_SAMPLES:]])
        context = tails[-1:]
        output, state["h"], state["c"] = session.run(
            None, {"input": np.concatenate([tails[:-1], frames], axis=1), **state}
        )
        yield from output.ravel().tolist()


def speech_spans(frames: Iterable[float], detection: SpeechDetection, *, total: int) -> Iterator[Span]:
    """Stretches of speech, padded on both sides without overlapping; each fits into one window."""
    padding = SAMPLE_RATE * detection.padding_ms // 1000
    before: Span | None = None
    for found in _detect(frames, detection, limit=WINDOW_SAMPLES - FRAME_SAMPLES - 2 * padding, total=total):
        if before is None:
            before = Span(max(0, found.start - padding), found.end)
            continue
        room = min(padding, (found.start - before.end) // 2)
        yield Span(before.start, before.end + room)
        before = Span(found.start - room, found.end)
    if before is not None:
        yield Span(before.start, min(total, before.end + padding))


def _detect(frames: Iterable[float], detection: SpeechDetection, *, limit: int, total: int) -> Iterator[Span]:
    """Silero's rules: enter speech above the threshold, leave it after a silence, cut what exceeds the limit."""
    release = max(detection.threshold - _HYSTERESIS, 0.01)
    min_silence = SAMPLE_RATE * detection.min_silence_ms // 1000
    cutter = _Cutter()
    for index, probability in enumerate(frames):
        at = index * FRAME_SAMPLES
        if probability >= detection.threshold and cutter.speech(at):
            continue
        if cutter.start is not None and at - cutter.start > limit:
            yield cutter.cut(at)
        if probability < release and cutter.start is not None:
            found = cutter.silence(at, min_silence)
            if found is not None:
                yield found
    if cutter.start is not None and cutter.start < total:
        yield Span(cutter.start, total)


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


def _covering(spans: Iterable[Span], *, total: int) -> Iterator[Span]:
    """The stretches of speech and what lies between them, none longer than a window."""
    end = 0
    for span in spans:
        yield from _chopped(Span(end, span.start))
        yield span
        end = span.end
    yield from _chopped(Span(end, total))


def _chopped(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, WINDOW_SAMPLES):
        yield Span(start, min(start + WINDOW_SAMPLES, span.end))


def _pack(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours together, as many as fit into one window."""
    window: Span | None = None
    for span in spans:
        if window is None:
            window = span
        elif span.end - window.start <= WINDOW_SAMPLES and span.start - window.end <= _MAX_GAP_SAMPLES:
            window = Span(window.start, span.end)
        else:
            yield window
            window = span
    if window is not None:
        yield window
