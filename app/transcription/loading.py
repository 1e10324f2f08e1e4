"""Finding, downloading and loading a model, with a sentence where that fails."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from app.domain.errors import ModelUnavailable
from app.transcription.device import choose_device
from app.transcription.fallback import Thresholds
from app.transcription.whisper import WhisperModel

if TYPE_CHECKING:
    from app.transcription.device import Device


logger = logging.getLogger(__name__)

#: The bundled model; see docs/demo_model.md.
DEMO_MODEL: Final = Path(__file__).with_name("demo_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model to load and where; ``auto`` leaves a choice to what is found here.

    On CUDA there is a replica on each of ``device_indexes``, on the CPU as many as there are indexes.
    """

    name: str = "auto"
    device: str = "auto"
    compute_type: str = "auto"
    device_indexes: tuple[int, ...] = (0,)
    cpu_threads: int = 0
    beam_size: int = 5


def load(choice: ModelChoice) -> tuple[WhisperModel, ...]:
    """The replicas of the model, ready to transcribe; downloaded from the hub if need be. Blocks.

    Raises:
        ModelUnavailable: with a sentence that names the remedies.
    """
    device = choose_device(choice.device, choice.compute_type, indexes=choice.device_indexes, probe_model=DEMO_MODEL)
    name = choice.name
    if name == "auto":
        name = "large-v3-turbo" if device.kind == "cuda" else "small"
    logger.info("🧠 Loading model %s on %s (%s)...", name, device.kind, device.compute_type)
    import httpx2  # what huggingface-hub downloads with

    try:
        return tuple(_replica(choice, name, device, number) for number in range(len(choice.device_indexes)))
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as exc:
        logger.debug("Loading %s failed", name, exc_info=True)
        raise ModelUnavailable(_remedies(name, exc)) from exc


def _replica(choice: ModelChoice, name: str, device: Device, number: int) -> WhisperModel:
    import faster_whisper

    location = str(DEMO_MODEL) if name == "demo" else name
    model = faster_whisper.WhisperModel(
        location,
        device=device.kind,
        device_index=choice.device_indexes[number] if device.kind == "cuda" else 0,
        compute_type=device.compute_type,
        cpu_threads=_threads(choice),
    )
    return WhisperModel(model, name=name, device=device, beam_size=choice.beam_size, thresholds=_thresholds(location))


def _threads(choice: ModelChoice) -> int:
    """Of each replica on a CPU. CTranslate2 itself would take four at most."""
    cores = choice.cpu_threads or len(os.sched_getaffinity(0))
    return max(1, cores // len(choice.device_indexes))


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


def _thresholds(location: str) -> Thresholds:
    """Those that a model brings along in ``transcription.json``, or the usual ones."""
    path = Path(location) / "transcription.json"
    return Thresholds(**json.loads(path.read_text())) if path.is_file() else Thresholds()


logger = logging.getLogger(__name__)

#: On a CPU decoding gets no cheaper in larger batches: base dimensions, beam 5, int8, two cores: 1.6 s for one window,
#: 0.43 s each in 8, 0.42 s each in 16.
CPU_BATCH_SIZE: Final = 8
#: On a GPU larger batches gain little and let others wait longer.
MAX_CUDA_BATCH_SIZE: Final = 16
#: Where the free memory is not known.
_CUDA_GUESS: Final = 8
#: The share of the memory left free by the weights that batches may take.
_SHARE: Final = 0.8
#: A window's share of the decoder's caches and the encoder's activations for each unit of the model's width, with beam
#: 5 and float16: computed from the dimensions of large-v3, which needs the most (32 decoder layers of width 1280).
_BYTES_PER_WIDTH: Final = 640_000
_QUERY_SECONDS: Final = 10


def auto_batch_size(model: WhisperModel) -> int:
    """For this model on its device, from what is free there now that it is loaded. Blocks."""
    if model.device.kind == "cpu":
        return CPU_BATCH_SIZE
    free = free_cuda_bytes()
    return _CUDA_GUESS if free is None else fitting(free, width=model.width)


def fitting(free_bytes: int, *, width: int) -> int:
    """The batch size that ``free_bytes`` have room for; a batch that does not fit after all is halved later."""
    return max(1, min(MAX_CUDA_BATCH_SIZE, int(free_bytes * _SHARE / (width * _BYTES_PER_WIDTH))))


def free_cuda_bytes() -> int | None:
    """The free memory of the GPU that has the least, or None where the driver's tool does not say."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"],  # noqa: S607  # where it is differs
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        ).stdout
        return min(int(line) for line in said.split()) * 1024 * 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        logger.debug("The GPU's free memory is not known", exc_info=True)
        return None
