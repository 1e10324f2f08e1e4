"""A wrapper around CTranslate2's Whisper that records every call and can script languages and results."""

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

#: The probability of a scripted language.
_CERTAIN: Final = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedResult:
    """A result in place of the model's, with the fields of ``WhisperGenerationResult`` that are read."""

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
class Alignment:
    """One call of ``align``."""

    start: list[int]
    texts: list[list[int]]
    frames: list[int]


class RecordingModel:
    """Passes everything on to the ``real`` model and records it.

    ``languages`` (codes, or probabilities by code) are detected in one window after another, ``results`` are
    generated; after the last of either, the real model's are returned.
    """

    def __init__(
        self,
        real: Any,
        *,
        languages: Iterable[str | dict[str, float]] = (),
        results: Iterable[ScriptedResult] = (),
    ) -> None:
        self.spectrograms: list[npt.NDArray[np.float32]] = []
        self.detections: list[list[str]] = []
        self.generations: list[Generation] = []
        self.alignments: list[Alignment] = []
        self._real = real
        self._languages = iter(languages)
        self._results = iter(results)
        self._called = threading.Event()
        self._may_generate = threading.Event()
        self._may_generate.set()

    @property
    def is_multilingual(self) -> bool:
        return bool(self._real.is_multilingual)

    @property
    def n_mels(self) -> int:
        return int(self._real.n_mels)

    @property
    def prompts(self) -> list[list[int]]:
        """The prompts of all calls of ``generate``, in order."""
        return [prompt for call in self.generations for prompt in call.prompts]

    @contextmanager
    def held(self) -> Iterator[threading.Event]:
        """Block ``generate`` until the end of the block. The event is set when it is called."""
        self._called.clear()
        self._may_generate.clear()
        try:
            yield self._called
        finally:
            self._may_generate.set()

    def encode(self, features: Any) -> Any:
        self.spectrograms += list(np.array(features))
        return self._real.encode(features)

    def detect_language(self, encoded: Any) -> list[list[tuple[str, float]]]:
        rankings: list[list[tuple[str, float]]] = self._real.detect_language(encoded)
        for row in range(len(rankings)):
            scripted = next(self._languages, None)
            if scripted is not None:
                probabilities = {scripted: _CERTAIN} if isinstance(scripted, str) else scripted
                rankings[row] = [(f"<|{code}|>", probability) for code, probability in probabilities.items()]
        self.detections.append([ranking[0][0] for ranking in rankings])
        return rankings

    def generate(self, encoded: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        self._called.set()
        self._may_generate.wait()
        results: list[Any] = self._real.generate(encoded, prompts, **options)
        results = [next(self._results, result) for result in results]
        self.generations.append(
            Generation(
                prompts=[list(prompt) for prompt in prompts],
                options=options,
                texts=[list(result.sequences_ids[0]) for result in results],
            )
        )
        return results

    def align(
        self, encoded: Any, start: Sequence[int], texts: Sequence[Sequence[int]], frames: Sequence[int]
    ) -> list[Any]:
        self.alignments.append(Alignment(start=list(start), texts=[list(text) for text in texts], frames=list(frames)))
        results: list[Any] = self._real.align(encoded, start, texts, frames)
        return results


def recording(
    model: WhisperModel,
    *,
    languages: Iterable[str | dict[str, float]] = (),
    results: Iterable[ScriptedResult] = (),
    device: Device | None = None,
) -> tuple[WhisperModel, RecordingModel]:
    """Return the same model with a recorder inside, and the recorder. ``device`` replaces the reported device."""
    recorder = RecordingModel(model._model, languages=languages, results=results)
    loaded = SimpleNamespace(
        model=recorder,
        hf_tokenizer=model._hf_tokenizer,
        feature_extractor=SimpleNamespace(mel_filters=model._log_mel._filters),
    )
    wrapped = WhisperModel(
        loaded,
        name=model.name,
        device=device or model.device,
        beam_size=model.beam_size,
        thresholds=model.thresholds,
    )
    return wrapped, recorder
