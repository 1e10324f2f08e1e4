"""Whisper on CTranslate2: the only module that knows faster_whisper and ctranslate2.

Both are imported when a model is loaded, so that a server can answer before that.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import ModelUnavailable, TranscriptionFailed
from app.domain.transcript import Segment, Word
from app.transcription.device import Device, choose_device
from app.transcription.word_times import held_within

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from app.domain.transcript import TranscriptionOptions

logger = logging.getLogger(__name__)

#: The bundled model; see docs/demo_model.md.
DEMO_MODEL: Final = Path(__file__).with_name("demo_model")
#: Tried in turn for a window whose text looks wrong, as OpenAI's ``transcribe.py`` does.
FALLBACK_TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
#: Thresholds of OpenAI's ``transcribe.py``; a model directory may bring its own in ``transcription.json``.
DEFAULT_THRESHOLDS: Final = {
    "log_prob_threshold": -1.0,
    "compression_ratio_threshold": 2.4,
    "no_speech_threshold": 0.6,
}
_SECONDS_PER_TIMESTAMP: Final = 0.02
_SECONDS_PER_FRAME: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model to load and where; ``auto`` leaves a choice to what is found here."""

    name: str = "auto"
    device: str = "auto"
    compute_type: str = "auto"
    device_indexes: tuple[int, ...] = (0,)
    cpu_threads: int = 0
    beam_size: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribedWindow:
    """``language`` is a code; the segments' times are seconds of the whole audio, their ids count from 0."""

    segments: tuple[Segment, ...]
    language: str


class WhisperModel:
    """A loaded model. Its methods block; call them in a thread."""

    def __init__(self, model: Any, *, name: str, device: Device, beam_size: int, thresholds: dict[str, float]) -> None:
        self.name = name
        self.device = device
        self._model = model
        self._beam_size = beam_size
        self._thresholds = thresholds
        self._first_timestamp: int = model.hf_tokenizer.token_to_id("<|notimestamps|>") + 1

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows other languages than English."""
        return bool(self._model.model.is_multilingual)

    def transcribe_window(
        self,
        audio: npt.NDArray[np.float32],
        options: TranscriptionOptions,
        *,
        language: str | None,
        offset_seconds: float,
    ) -> TranscribedWindow:
        """The text of at most 30 s of ``audio`` (16 kHz, -1 to 1), which begins at ``offset_seconds``.

        ``language`` None has it detected from this window.

        Raises:
            TranscriptionFailed: the model raised an error.
        """
        with _failures_renamed():
            found, info = self._model.transcribe(
                audio,
                language=language,
                task=options.task.value,
                beam_size=options.beam_size or self._beam_size,
                temperature=FALLBACK_TEMPERATURES if options.temperature == 0 else [options.temperature],
                initial_prompt=options.prompt,
                hotwords=options.hotwords,
                word_timestamps=options.word_timestamps,
                condition_on_previous_text=False,
                **self._thresholds,
            )
            segments = tuple(self._segment(index, one, offset_seconds) for index, one in enumerate(found))
        return TranscribedWindow(segments=segments, language=info.language)

    def detect_language(self, audio: npt.NDArray[np.float32]) -> str:
        """The code of the language that is most probable in the first 30 s of ``audio``."""
        if not self.is_multilingual:
            return "en"
        with _failures_renamed():
            language, _, _ = self._model.detect_language(audio)
        return str(language)

    def _segment(self, index: int, found: Any, offset: float) -> Segment:
        start, end = self._times(found)
        words = held_within([_word(word) for word in found.words or ()], start, end)
        return Segment(
            id=index,
            seek=round(offset / _SECONDS_PER_FRAME) + found.seek,
            start=round(offset + start, 3),
            end=round(offset + end, 3),
            text=found.text,
            tokens=tuple(found.tokens),
            temperature=float(found.temperature),
            avg_logprob=float(found.avg_logprob),
            compression_ratio=float(found.compression_ratio),
            no_speech_prob=float(found.no_speech_prob),
            words=tuple(
                replace(word, start=round(offset + word.start, 3), end=round(offset + word.end, 3)) for word in words
            ),
        )

    def _times(self, found: Any) -> tuple[float, float]:
        """When a segment begins and ends, as the model wrote it.

        faster-whisper starts the only segment of a window at 0 whatever silence leads it, and replaces the times
        by those of the words, which are coarser; the timestamp tokens still say what the model meant.
        """
        base = found.seek * _SECONDS_PER_FRAME
        start, end = found.start, found.end
        if found.tokens and found.tokens[0] >= self._first_timestamp:
            start = base + (found.tokens[0] - self._first_timestamp) * _SECONDS_PER_TIMESTAMP
        if len(found.tokens) > 1 and found.tokens[-1] >= self._first_timestamp:
            end = base + (found.tokens[-1] - self._first_timestamp) * _SECONDS_PER_TIMESTAMP
        return start, max(start, end)


def _word(word: Any) -> Word:
    return Word(word=word.word, start=word.start, end=word.end, probability=float(word.probability))


@contextmanager
def _failures_renamed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:  # what CTranslate2 raises
        raise TranscriptionFailed(_model_failure(exc)) from exc


def _model_failure(exc: RuntimeError) -> str:
    if "out of memory" in str(exc):
        return (
            f"The GPU's memory is exhausted ({exc}): lower MAX_CONCURRENT_REQUESTS, set "
            "WHISPER_COMPUTE_TYPE=int8_float16, or choose a smaller WHISPER_MODEL."
        )
    return f"The model failed ({exc})."


def load(choice: ModelChoice) -> WhisperModel:
    """The model, ready to transcribe; downloaded from the hub if need be. Blocks.

    Raises:
        ModelUnavailable: with a sentence that names the remedies.
    """
    device = choose_device(choice.device, choice.compute_type, indexes=choice.device_indexes, probe_model=DEMO_MODEL)
    name = choice.name
    if name == "auto":
        name = "large-v3-turbo" if device.kind == "cuda" else "small"
    location = str(DEMO_MODEL) if name == "demo" else name
    logger.info("🧠 Loading model %s on %s (%s)...", name, device.kind, device.compute_type)
    import faster_whisper
    import httpx2  # what huggingface-hub downloads with

    try:
        model = faster_whisper.WhisperModel(
            location,
            device=device.kind,
            device_index=list(choice.device_indexes) if device.kind == "cuda" else 0,
            compute_type=device.compute_type,
            cpu_threads=choice.cpu_threads,
        )
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as exc:
        logger.debug("Loading %s failed", name, exc_info=True)
        raise ModelUnavailable(_remedies(name, exc)) from exc
    return WhisperModel(model, name=name, device=device, beam_size=choice.beam_size, thresholds=_thresholds(location))


def _remedies(name: str, exc: Exception) -> str:
    cause = next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__).rstrip(". ")
    if "out of memory" in cause:
        return (
            f"The model {name!r} does not fit into the GPU's memory: set WHISPER_MODEL to a smaller one, "
            "WHISPER_COMPUTE_TYPE=int8_float16, or WHISPER_DEVICE=cpu."
        )
    if Path(name).is_dir():
        return (
            f"The model in {name} can't be loaded ({cause}): WHISPER_MODEL must be a directory with a Whisper model "
            "converted for CTranslate2 (model.bin, config.json, tokenizer.json)."
        )
    return (
        f"The model {name!r} can't be loaded ({cause}): set WHISPER_MODEL to a directory with a converted model, "
        "or to a size such as small or large-v3-turbo with the hub reachable (HF_ENDPOINT names a mirror, HF_HOME a "
        "cache filled elsewhere, HF_TOKEN opens private models, HTTPS_PROXY a proxy), or try ./start_server.sh "
        "--demo, which needs no download."
    )


def _thresholds(location: str) -> dict[str, float]:
    path = Path(location) / "transcription.json"
    own: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return {name: float(own.get(name, default)) for name, default in DEFAULT_THRESHOLDS.items()}
