"""The share of a fast device that the engine keeps busy, on a machine without one.

A simulated device sleeps for as long as an H200 computes with large-v3-turbo's dimensions, float16 and beam 5
(measured with CTranslate2 4.8: 26 ms to encode a window, 7 ms to detect the languages of a batch, and 120 ms and 51 ms
for each window to decode 100 tokens). Everything else is real: decoding files, finding speech, features, batching,
text, segments and the event loop. Their processor time is measured.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import sys
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import ctranslate2
import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor

from app.__main__ import SWITCH_SECONDS
from app.domain.transcript import TranscriptionOptions
from app.transcription.admission import FrontEnd
from app.transcription.decoding import Decoder
from app.transcription.device import Device
from app.transcription.engine import WhisperTranscriber
from app.transcription.fallback import Thresholds
from app.transcription.slots import Slots
from app.transcription.transcriber import Listener
from app.transcription.whisper import WhisperModel
from benchmarks.processes import core_seconds
from benchmarks.random_model import Vocabulary
from benchmarks.recordings import recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BATCH_SIZE: Final = 16
_MELS: Final = 128
_ENCODE_SECONDS: Final = 0.026
_DETECT_SECONDS: Final = 0.007
_DECODE_SECONDS: Final = 0.120
_DECODE_WINDOW_SECONDS: Final = 0.051
_WORDS: Final = 96
CLIPS: Final = 64
CLIP_SECONDS: Final = 30
HOUR_SECONDS: Final = 3600
SPEEDS: Final = (0.25, 0.5, 1.0, 2.0)
_DEFAULTS: Final = TranscriptionOptions()
#: The columns of a timeline.
_COLUMNS: Final = 100
_FAIRNESS_CLIPS: Final = 16
#: The sizes of batches in a timeline.
_SIZES: Final = "0123456789abcdefg"


@dataclass(frozen=True)
class Call:
    """A call of the device: when it began and ended, and its number of windows."""

    began: float
    ended: float
    windows: int


class SimulatedWhisper:
    """The methods of CTranslate2's Whisper, which sleep ``1 / speed`` times as long as an H200 computes.

    It finds English and the same words in every window, and records its calls.
    """

    is_multilingual = True
    n_mels = _MELS

    def __init__(self, speed: float, vocabulary: Vocabulary) -> None:
        self._speed = speed
        first, last = (vocabulary.all.index(f"<|{time}|>") for time in ("0.00", "29.00"))
        self._text = [vocabulary.word_at(position) for position in range(1, 1 + _WORDS)]
        self._tokens = [first, *self._text, last]
        self.calls: list[Call] = []
        self.windows = 0

    def encode(self, features: Any) -> Any:
        windows = features.shape[0]
        self._compute(windows * _ENCODE_SECONDS, windows)
        return ctranslate2.StorageView.from_array(np.zeros((windows, 1, 1), np.float32))

    def detect_language(self, encoded: Any) -> list[list[tuple[str, float]]]:
        windows = encoded.shape[0]
        self._compute(_DETECT_SECONDS, windows)
        return [[("<|en|>", 1.0)]] * windows

    def generate(self, _encoded: Any, prompts: Sequence[Sequence[int]], **_options: Any) -> list[Any]:
        windows = len(prompts)
        self._compute(_DECODE_SECONDS + windows * _DECODE_WINDOW_SECONDS, windows)
        self.windows += windows
        return [SimpleNamespace(sequences_ids=[self._tokens], scores=[-0.1], no_speech_prob=0.0)] * windows

    def align(self, encoded: Any, _start: Any, texts: Sequence[Sequence[int]], _frames: Any) -> list[Any]:
        self._compute(0.0, encoded.shape[0])
        return [
            SimpleNamespace(
                alignments=[(token, 15 * token) for token in range(len(text) + 1)], text_token_probs=[0.9] * len(text)
            )
            for text in texts
        ]

    def _compute(self, seconds: float, windows: int) -> None:
        began = time.monotonic()
        time.sleep(seconds / self._speed)
        self.calls.append(Call(began, time.monotonic(), windows))

    def ideal_seconds(self) -> float:
        """Return how long the windows would take in full batches, one right after the other."""
        full, rest = divmod(self.windows, BATCH_SIZE)
        batches = full + bool(rest)
        per_window = _ENCODE_SECONDS + _DECODE_WINDOW_SECONDS
        return (batches * (_DECODE_SECONDS + _DETECT_SECONDS) + self.windows * per_window) / self._speed


def simulated_model(device: SimulatedWhisper, vocabulary: Vocabulary) -> WhisperModel:
    """Return a model on a simulated device."""
    parts = SimpleNamespace(
        model=device,
        hf_tokenizer=vocabulary.tokenizer(),
        feature_extractor=FeatureExtractor(feature_size=_MELS),
    )
    return WhisperModel(parts, name="simulated", device=Device("cuda", "float16"), beam_size=5, thresholds=Thresholds())


@dataclass(frozen=True)
class Outcome:
    """The figures of one run: ``core_seconds`` are those of the service and of its decoder processes."""

    seconds: float
    ideal_seconds: float
    core_seconds: float
    timeline: str

    @property
    def share(self) -> float:
        return self.ideal_seconds / self.seconds


@asynccontextmanager
async def simulation(speed: float, *, slots: int) -> AsyncIterator[tuple[WhisperTranscriber, SimulatedWhisper]]:
    """Run the engine on a simulated device."""
    sys.setswitchinterval(SWITCH_SECONDS)
    vocabulary = Vocabulary()
    device = SimulatedWhisper(speed, vocabulary)
    deaths: list[BaseException] = []
    front_end = FrontEnd(Decoder(max_seconds=12 * 3600), slots=slots)
    transcriber = WhisperTranscriber(
        [simulated_model(device, vocabulary)],
        front_end=front_end,
        slots=Slots(slots),
        batch_size=BATCH_SIZE,
        on_death=deaths.append,
    )
    try:
        yield transcriber, device
    finally:
        await transcriber.close()
        front_end.close()


async def transcribe(
    paths: Sequence[Path], *, speed: float, slots: int, options: TranscriptionOptions = _DEFAULTS
) -> Outcome:
    """Transcribe all files at once."""
    async with simulation(speed, slots=slots) as (transcriber, device):
        with TemporaryDirectory() as folder:
            first = shutil.copy(paths[0], Path(folder) / "first")
            await transcriber.transcribe(Path(first), options, listener=Listener())  # loads libraries
            device.windows, device.calls = 0, []
            copies = [Path(shutil.copy(path, Path(folder) / f"{number}")) for number, path in enumerate(paths)]
            with CoreMeter() as cores:
                await asyncio.gather(*(transcriber.transcribe(copy, options, listener=Listener()) for copy in copies))
    return Outcome(
        seconds=cores.ended - cores.began,
        ideal_seconds=device.ideal_seconds(),
        core_seconds=cores.seconds,
        timeline=timeline(device.calls, cores),
    )


async def clip_seconds(clip: Path, long: Path, *, beside: int, clips: int) -> tuple[list[float], float]:
    """Return how long each of some clips takes beside long files, and the windows a second that the device decodes."""
    generator = random.Random(1)  # noqa: S311  # no secret
    times = []
    async with simulation(1.0, slots=3) as (transcriber, device):
        with TemporaryDirectory() as folder:

            async def send(path: Path, name: str, *, synchronous: bool) -> None:
                copy = Path(shutil.copy(path, Path(folder) / name))
                await transcriber.transcribe(copy, _DEFAULTS, listener=Listener(), synchronous=synchronous)

            await send(clip, "first", synchronous=True)  # loads libraries
            tasks = [asyncio.create_task(send(long, f"long {n}", synchronous=False)) for n in range(beside)]
            await asyncio.sleep(5 if beside else 0)
            await send(clip, "second", synchronous=True)  # the scheduler expects more of them from now on
            device.windows, began = 0, time.monotonic()
            for number in range(clips):
                await asyncio.sleep(generator.uniform(0, 2 if beside else 0.1))
                sent = time.monotonic()
                await send(clip, f"clip {number}", synchronous=True)
                times.append(time.monotonic() - sent)
            rate = device.windows / (time.monotonic() - began)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return times, rate


class CoreMeter:
    """Measures the processor time of this process and its children while it is open, also sample by sample."""

    _SAMPLE_SECONDS: Final = 0.05

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> CoreMeter:
        self.began = time.monotonic()
        self.samples.append((self.began, core_seconds()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.monotonic()
        self._stop.set()
        self._thread.join()
        self.samples.append((self.ended, core_seconds()))

    @property
    def seconds(self) -> float:
        return self.samples[-1][1] - self.samples[0][1]

    def cores(self, start: float, end: float) -> float:
        """Return how many cores were busy in a part of the time."""
        used = sum(
            (after - before) * max(0.0, min(end, until) - max(start, since)) / (until - since)
            for (since, before), (until, after) in pairwise(self.samples)
            if until > since
        )
        return used / (end - start)

    def _sample(self) -> None:
        while not self._stop.wait(self._SAMPLE_SECONDS):
            self.samples.append((time.monotonic(), core_seconds()))


def timeline(calls: Sequence[Call], cores: CoreMeter) -> str:
    """Return two lines, a character for each hundredth of the time.

    For the device it is the size of the batch (up to 9, then a to g) or a dot while it waits, for the front end the
    number of cores.
    """
    step = (cores.ended - cores.began) / _COLUMNS
    device = front_end = ""
    for column in range(_COLUMNS):
        start = cores.began + column * step
        busy = {call.windows: 0.0 for call in calls}
        for call in calls:
            busy[call.windows] += max(0.0, min(start + step, call.ended) - max(start, call.began))
        device += _SIZES[max(busy, key=busy.__getitem__)] if sum(busy.values()) > step / 2 else "."
        front_end += f"{cores.cores(start, start + step):.0f}"
    return f"device    {device}\nfront end {front_end}"


def measure(*, rounds: int) -> str:
    """Return a section with the share of the ideal and the core-seconds, medians over ``rounds``, and timelines."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        clips = [
            recording(folder / f"{number}.wav", seconds=CLIP_SECONDS, offset_seconds=number) for number in range(CLIPS)
        ]
        hour = [recording(folder / "hour.wav", seconds=HOUR_SECONDS)]
        rows = []
        timelines = []
        for title, paths, audio in (
            (f"{CLIPS} clips of {CLIP_SECONDS} s at once", clips, CLIPS * CLIP_SECONDS),
            ("one file of an hour", hour, HOUR_SECONDS),
        ):
            for speed in SPEEDS:
                runs = [asyncio.run(transcribe(paths, speed=speed, slots=CLIPS)) for _ in range(rounds)]
                share, seconds, cost = (
                    statistics.median(values)
                    for values in zip(*((run.share, run.seconds, run.core_seconds) for run in runs), strict=True)
                )
                per_hour = cost * 3600 / audio
                rows.append(f"| {title} | {speed:g} | {seconds:.1f} | {share:.2f} | {per_hour:.1f} |")
                timelines.append(f"{title}, speed {speed:g}, {runs[-1].seconds:.1f} s\n{runs[-1].timeline}\n")
        fairness = _fairness(recording(folder / "clip.wav", seconds=5), hour[0])
    return "\n".join(
        [
            "## Simulated device",
            "",
            "A device that sleeps as long as an H200 computes, divided by its speed; everything else is real. The "
            f"ideal is full batches of {BATCH_SIZE} without a pause.",
            "",
            "| | speed | seconds | share of the ideal | core-seconds per hour of audio |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *fairness,
            "",
            "The last run of each, in hundredths of its time: the number of windows in the device's batch (g: 16, a "
            "dot: it waits), and the number of cores that everything else used.",
            "",
            "```",
            "\n".join(timelines).strip(),
            "```",
        ]
    )


def _fairness(clip: Path, hour: Path) -> list[str]:
    """Return a table of the times of a clip alone and beside long files."""
    rows = []
    for title, beside in (("alone", 0), ("beside three files of an hour", 3)):
        times, rate = asyncio.run(clip_seconds(clip, hour, beside=beside, clips=_FAIRNESS_CLIPS))
        middle, worst = statistics.median(times), sorted(times)[round(0.95 * (len(times) - 1))]
        rows.append(f"| {title} | {middle:.2f} | {worst:.2f} | {rate * CLIP_SECONDS:.0f} |")
    return [
        "| a clip of 5 s at random moments, speed 1, 3 slots (s) | median | p95 | device, times real time |",
        "|---|---|---|---|",
        *rows,
    ]


def main() -> None:
    """Print the outcome of one run, to try a change: the number of files, their seconds, the speed, and "words"."""
    count, seconds, speed, *words = sys.argv[1:]
    with TemporaryDirectory() as name:
        paths = [
            recording(Path(name) / f"{number}.wav", seconds=int(seconds), offset_seconds=number)
            for number in range(int(count))
        ]
        options = replace(_DEFAULTS, word_timestamps=bool(words))
        outcome = asyncio.run(transcribe(paths, speed=float(speed), slots=CLIPS, options=options))
    print(f"{outcome.seconds:.2f} s, share {outcome.share:.3f}, {outcome.core_seconds:.1f} core-seconds")
    print(outcome.timeline)


if __name__ == "__main__":
    main()
