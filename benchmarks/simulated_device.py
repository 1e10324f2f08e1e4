"""The share of a fast device that the engine keeps busy, on a machine without one.

A simulated device sleeps for as long as an H200 computes with large-v3-turbo's dimensions, float16 and beam 5
(measured with CTranslate2 4.8: 26 ms to encode a window, and 120 ms and 51 ms for each window to decode 100 tokens).
Decoding files, finding speech, features, batching and the event loop are real, and their processor time is measured.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from faster_whisper.feature_extractor import FeatureExtractor

from app.domain.transcript import Segment, TranscriptionOptions
from app.transcription.admission import FrontEnd
from app.transcription.decoding import Decoder
from app.transcription.device import Device
from app.transcription.engine import WhisperTranscriber
from app.transcription.features import LogMel
from app.transcription.slots import Slots
from app.transcription.transcriber import Listener
from app.transcription.whisper import AcceptedDecoding
from benchmarks.recordings import recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.transcription.window import Window

BATCH_SIZE: Final = 16
_MELS: Final = 128
_ENCODE_SECONDS: Final = 0.026
_DECODE_SECONDS: Final = 0.120
_DECODE_WINDOW_SECONDS: Final = 0.051
CLIPS: Final = 64
CLIP_SECONDS: Final = 30
HOUR_SECONDS: Final = 3600


@dataclass
class SimulatedModel:
    """A WhisperModel that sleeps ``1 / speed`` times as long as an H200 computes, and finds one word in each window.

    ``busy`` are the times at which it began and ended a batch, ``windows`` counts them.
    """

    speed: float
    name: str = "simulated"
    device: Device = field(default_factory=lambda: Device("cuda", "float16"))
    beam_size: int = 5
    is_multilingual: bool = True
    windows: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.features = LogMel(FeatureExtractor(feature_size=_MELS).mel_filters)

    def prompt(self, _options: TranscriptionOptions, _previous: Sequence[int] = ()) -> tuple[int, ...]:
        return ()

    def encode(self, windows: Sequence[Window]) -> None:
        raise NotImplementedError  # only a CPU encodes apart

    def decode(self, windows: Sequence[Window]) -> list[AcceptedDecoding]:
        began = time.monotonic()
        seconds = _DECODE_SECONDS + len(windows) * (_ENCODE_SECONDS + _DECODE_WINDOW_SECONDS)
        time.sleep(seconds / self.speed)
        self.windows += len(windows)
        self.busy.append((began, time.monotonic()))
        for window in windows:
            window.language = window.language or "en"
        return [self._word(window) for window in windows]

    def _word(self, window: Window) -> AcceptedDecoding:
        start = window.start / 16_000
        word = Segment(
            id=0, seek=0, start=start, end=start + 1, text=" word", tokens=(1,), temperature=0.0, avg_logprob=-0.1,
            compression_ratio=1.0, no_speech_prob=0.0,
        )  # fmt: skip
        return AcceptedDecoding(segments=(word,), frames_done=window.frames)

    def ideal_seconds(self) -> float:
        """Return how long the windows would take in full batches, one right after the other."""
        full, rest = divmod(self.windows, BATCH_SIZE)
        batches = full + bool(rest)
        return (batches * _DECODE_SECONDS + self.windows * (_ENCODE_SECONDS + _DECODE_WINDOW_SECONDS)) / self.speed


@dataclass(frozen=True)
class Outcome:
    """The figures of one run: ``core_seconds`` are those of the service and of its decoder processes."""

    seconds: float
    ideal_seconds: float
    busy_seconds: float
    core_seconds: float

    @property
    def share(self) -> float:
        return self.ideal_seconds / self.seconds


async def transcribe(paths: Sequence[Path], *, speed: float, slots: int) -> Outcome:
    """Transcribe all files at once."""
    model: Any = SimulatedModel(speed)
    failures: list[BaseException] = []
    front_end = FrontEnd(Decoder(max_seconds=12 * 3600), slots=slots)
    transcriber = WhisperTranscriber(
        [model], front_end=front_end, slots=Slots(slots), batch_size=BATCH_SIZE, on_death=failures.append
    )
    options = TranscriptionOptions()
    with TemporaryDirectory() as folder:
        first = shutil.copy(paths[0], Path(folder) / "first")
        await transcriber.transcribe(Path(first), options, listener=Listener())  # loads libraries
        model.windows, model.busy = 0, []
        copies = [Path(shutil.copy(path, Path(folder) / f"{number}")) for number, path in enumerate(paths)]
        cpu, began = _core_seconds(), time.monotonic()
        await asyncio.gather(*(transcriber.transcribe(copy, options, listener=Listener()) for copy in copies))
        seconds = time.monotonic() - began
        await transcriber.close()
        front_end.close()
        return Outcome(
            seconds=seconds,
            ideal_seconds=model.ideal_seconds(),
            busy_seconds=sum(end - start for start, end in model.busy),
            core_seconds=_core_seconds() - cpu,
        )


def _core_seconds() -> float:
    """Return the processor time of this process, of its children and of theirs that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage) + sum(map(_used, _children(os.getpid())))


def _children(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread has ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _used(pid: int) -> float:
    """Return the processor seconds of a process and of its children that have been reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measure(*, rounds: int) -> str:
    """Return a section with the share of the ideal and the core-seconds, medians over ``rounds``."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        clips = [
            recording(folder / f"{number}.wav", seconds=CLIP_SECONDS, offset_seconds=number) for number in range(CLIPS)
        ]
        hour = [recording(folder / "hour.wav", seconds=HOUR_SECONDS)]
        rows = []
        for title, paths, audio in (
            (f"{CLIPS} clips of {CLIP_SECONDS} s at once", clips, CLIPS * CLIP_SECONDS),
            ("one file of an hour", hour, HOUR_SECONDS),
        ):
            for speed in (0.5, 1.0, 2.0):
                runs = [asyncio.run(transcribe(paths, speed=speed, slots=CLIPS)) for _ in range(rounds)]
                share, seconds, cost = (
                    statistics.median(values)
                    for values in zip(*((run.share, run.seconds, run.core_seconds) for run in runs), strict=True)
                )
                per_hour = cost * 3600 / audio
                rows.append(f"| {title} | {speed:g} | {seconds:.1f} | {share:.2f} | {per_hour:.1f} |")
    return "\n".join(
        [
            "## Simulated device",
            "",
            "A device that sleeps as long as an H200 computes, divided by its speed; the front end is real. The ideal "
            f"is full batches of {BATCH_SIZE} without a pause.",
            "",
            "| | speed | seconds | share of the ideal | core-seconds per hour of audio |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
