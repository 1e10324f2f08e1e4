"""CTranslate2's Whisper with a notebook beside it: real prompts are made, and all that reaches it is kept."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app.transcription.whisper import WhisperModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from app.transcription.device import Device

#: How sure a scripted language is.
_CERTAIN: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A scripted result, with what is read of CTranslate2's ``WhisperGenerationResult``."""

    sequences_ids: list[list[int]]
    scores: list[float]
    no_speech_prob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One call of ``generate``: a prompt for each row, the keyword arguments, and the first text of each row."""

    prompts: list[list[int]]
    options: dict[str, Any]
    texts: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One call of ``align``."""

    start: list[int]
    texts: list[list[int]]
    frames: list[int]


class RecordingModel:
    """Hands everything on to ``real`` and writes it down.

    ``languages`` (codes) are what it hears in one window after another, ``results`` what it writes; where either has
    come to its end, the real model answers.
    """

    def __init__(self, real: Any, *, languages: Iterable[str] = (), results: Iterable[Written] = ()) -> None:
        self.spectrograms: list[npt.NDArray[np.float32]] = []
        self.detections: list[list[str]] = []
        self.generations: list[Generation] = []
        self.readings: list[Reading] = []
        self._real = real
        self._languages = iter(languages)
        self._results = iter(results)
        self._arrived = threading.Event()
        self._door = threading.Event()
        self._door.set()

    @property
    def is_multilingual(self) -> bool:
        return bool(self._real.is_multilingual)

    @property
    def n_mels(self) -> int:
        return int(self._real.n_mels)

    @property
    def prompts(self) -> list[list[int]]:
        """Those of all calls of ``generate``, one after another."""
        return [prompt for call in self.generations for prompt in call.prompts]

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """Until the block ends, ``generate`` waits; the event is set when a call has come."""
        self._arrived.clear()
        self._door.clear()
        try:
            yield self._arrived
        finally:
            self._door.set()

    def encode(self, features: Any) -> Any:
        self.spectrograms += list(np.array(features))
        return self._real.encode(features)

    def detect_language(self, encoded: Any) -> list[list[tuple[str, float]]]:
        heard: list[list[tuple[str, float]]] = self._real.detect_language(encoded)
        for row in range(len(heard)):
            code = next(self._languages, None)
            if code is not None:
                heard[row] = [(f"<|{code}|>", _CERTAIN)]
        self.detections.append([row[0][0] for row in heard])
        return heard

    def generate(self, encoded: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        self._arrived.set()
        self._door.wait()
        results: list[Any] = self._real.generate(encoded, prompts, **options)
        results = [next(self._results, real) for real in results]
        self.generations.append(
            Generation(
                prompts=[list(prompt) for prompt in prompts],
                options=options,
                texts=[list(one.sequences_ids[0]) for one in results],
            )
        )
        return results

    def align(
        self, encoded: Any, start: Sequence[int], texts: Sequence[Sequence[int]], frames: Sequence[int]
    ) -> list[Any]:
        self.readings.append(Reading(start=list(start), texts=[list(text) for text in texts], frames=list(frames)))
        found: list[Any] = self._real.align(encoded, start, texts, frames)
        return found


def recording(
    model: WhisperModel,
    *,
    languages: Iterable[str] = (),
    results: Iterable[Written] = (),
    device: Device | None = None,
) -> tuple[WhisperModel, RecordingModel]:
    """The same model with a notebook, and the notebook. ``device`` is what the engine is told to be on."""
    notebook = RecordingModel(model._model, languages=languages, results=results)
    loaded = SimpleNamespace(
        model=notebook,
        hf_tokenizer=model._hf_tokenizer,
        feature_extractor=SimpleNamespace(mel_filters=model._log_mel._filters),
    )
    wrapped = WhisperModel(
        loaded,
        name=model.name,
        device=device or model.device,
        beam_size=model.beam_size,
        thresholds=model._thresholds,
    )
    return wrapped, notebook
