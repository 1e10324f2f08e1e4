"""The accuracy, speed and memory of diarization. Prints tables for ``RESULTS.md``.

    python -m benchmarks.diarization [--rttm FILE --recordings FOLDER] [--clips FOLDER] [--hour] [--ten-hours]

``--recordings`` is a folder of recordings with the names that are in the RTTM file. ``--clips`` has a folder for each
speaker with recordings in it, from which conversations are built. Nothing here is needed for ``--ten-hours``.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.diarization.chunks import HOP_SAMPLES
from app.diarization.conversation import BLOCK_SAMPLES, Conversation
from app.diarization.models import CHUNK_FRAMES, EMBEDDING_SIZE, SAMPLE_RATE, SLOTS, VoiceModels, as_unit
from benchmarks.diarization_error import DiarizationError, diarization_error, read_rttm
from benchmarks.talks import Clips, Recipe, build, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    from app.domain.transcript import Turn

    Samples = npt.NDArray[np.int16]
    Recording = tuple[Samples, list[Turn]]

_MINUTE = 60.0
_SETS = {
    "talks of 3 min, 2 to 6 speakers": [
        Recipe(speakers=count, seconds=3 * _MINUTE) for count in (2, 2, 3, 3, 4, 4, 6, 6)
    ],
    "the same with short turns, overlap and noise": [
        Recipe(speakers=count, seconds=3 * _MINUTE, turns=(0.8, 6.0), overlap=0.25, noise_db=20.0)
        for count in (2, 2, 3, 3, 4, 4, 6, 6)
    ],
    "the same by telephone": [
        Recipe(speakers=count, seconds=3 * _MINUTE, telephone=True) for count in (2, 2, 3, 3, 4, 4, 6, 6)
    ],
    "8 speakers": [Recipe(speakers=8, seconds=4 * _MINUTE) for _ in range(3)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rttm", type=Path)
    parser.add_argument("--recordings", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--hour", action="store_true", help="build an hour with six speakers")
    parser.add_argument("--ten-hours", action="store_true", help="measure memory and clustering with made-up voices")
    arguments = parser.parse_args()
    before = _peak_megabytes()
    models = VoiceModels.load()
    print(f"The models take {_peak_megabytes() - before:.0f} MB.\n")
    print("| recordings | DER % | missed | false alarm | confused | DER, collar | confused | speakers | of real time |")
    print("|---|---|---|---|---|---|---|---|---|")
    if arguments.rttm:
        print(_row(arguments.rttm.stem, models, _annotated(arguments.rttm, arguments.recordings)))
    if arguments.clips:
        clips = Clips(arguments.clips)
        for name, recipes in _SETS.items():
            built = (build(clips, recipe, seed=seed) for seed, recipe in enumerate(recipes, start=1))
            print(_row(name, models, built))
        if arguments.hour:
            print(_row("an hour, 6 speakers", models, [build(clips, Recipe(speakers=6, seconds=3600.0), seed=1)]))
    if arguments.ten_hours:
        print("\n" + _long_conversation(hours=10.0, speakers=6))


def _annotated(rttm: Path, folder: Path) -> Iterator[Recording]:
    turns = read_rttm(rttm)
    for path in sorted(folder.iterdir()):
        if path.stem in turns:
            yield np.rint(read(path) * 32768.0).astype(np.int16), turns[path.stem]


def _row(name: str, models: VoiceModels, recordings: Iterable[Recording]) -> str:
    exact, collared = DiarizationError(), DiarizationError()
    counts: list[str] = []
    seconds = spent = 0.0
    for samples, reference in recordings:
        duration = len(samples) / SAMPLE_RATE
        started = time.process_time()
        turns = _listen(models, samples).turns()
        spent += time.process_time() - started
        seconds += duration
        exact += diarization_error(reference, turns, duration=duration)
        collared += diarization_error(reference, turns, duration=duration, collar=0.25)
        spoken = {turn.speaker for turn in reference if turn.start < duration}
        counts.append(f"{len({turn.speaker for turn in turns})}/{len(spoken)}")
    rates = [exact.rate, *(part / exact.speech for part in (exact.missed, exact.false_alarm, exact.confused))]
    rates += [collared.rate, collared.confused / collared.speech]
    figures = " | ".join(f"{100 * rate:.1f}" for rate in rates)
    return f"| {name} | {figures} | {' '.join(counts)} | {spent / seconds:.3f} |"


def _listen(models: VoiceModels, samples: Samples) -> Conversation:
    conversation = Conversation(models)
    for start in range(0, len(samples), BLOCK_SAMPLES):
        block = samples[start : start + BLOCK_SAMPLES]
        conversation.hear(block, is_last=start + BLOCK_SAMPLES >= len(samples))
    return conversation


class _MadeUpVoices:
    """Stands in for the models: people speak in turn, 5 s each, with embeddings as far apart as those of people."""

    def __init__(self, speakers: int) -> None:
        self._random = np.random.default_rng(1)
        self._voices = as_unit(self._random.standard_normal((speakers, EMBEDDING_SIZE)).astype(np.float32))
        self._common = as_unit(self._random.standard_normal((1, EMBEDDING_SIZE)).astype(np.float32))

    def segment(self, chunks: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        activity = np.zeros((len(chunks), CHUNK_FRAMES, SLOTS), np.bool_)
        activity[:, : CHUNK_FRAMES // 2, 0] = activity[:, CHUNK_FRAMES // 2 :, 1] = True
        return activity

    def embed(self, spectrograms: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        voice = self._voices[self._random.integers(len(self._voices))]
        noise = self._random.standard_normal((len(spectrograms), EMBEDDING_SIZE)).astype(np.float32)
        return as_unit(0.6 * self._common + 0.65 * voice + 0.035 * noise)


def _long_conversation(*, hours: float, speakers: int) -> str:
    """Return the memory and the time that a long conversation needs, without that of the models."""
    conversation = Conversation(_MadeUpVoices(speakers))  # type: ignore[arg-type]  # it has the two methods that are used
    silence = np.zeros(HOP_SAMPLES, np.int16)
    for _ in range(round(hours * 3600 * SAMPLE_RATE / HOP_SAMPLES)):
        conversation.hear(silence)
    conversation.hear(silence, is_last=True)
    before = _peak_megabytes()
    started = time.perf_counter()
    turns = conversation.turns()
    spent = time.perf_counter() - started
    grown = _peak_megabytes() - before
    found = len({turn.speaker for turn in turns})
    embeddings = len(conversation.voices()[0])
    kept = conversation.nbytes / 1e6
    return (
        f"{hours:g} h: {embeddings:,} embeddings, {kept:.0f} MB kept; the turns took {spent:.1f} s and {grown:.0f} MB "
        f"more ({found} of {speakers} speakers, {len(turns):,} turns)."
    )


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
