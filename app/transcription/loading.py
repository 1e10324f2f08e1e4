"""Loading of a model: where it comes from, on which device it runs, and how many windows fit into a batch there."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.domain.errors import ModelUnavailable
from app.transcription.device import Device, choose_compute_type, choose_device
from app.transcription.fallback import Thresholds
from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)

#: The bundled model; see docs/demo_model.md.
DEMO_MODEL: Final = Path(__file__).with_name("demo_model")

#: The compute types of ``WHISPER_COMPUTE_TYPE=auto``, the best first.
CPU_COMPUTE_TYPES: Final = ("int8", "float32")
CUDA_COMPUTE_TYPES: Final = ("float16", "float32")

#: Larger batches make decoding no cheaper on a CPU: with base dimensions, beam 5, int8 and two cores a window takes
#: 1.6 s alone, 0.43 s in a batch of 8 and 0.42 s in a batch of 16.
CPU_BATCH_SIZE: Final = 8
#: Larger batches gain little on a GPU and make other transcriptions wait longer.
MAX_CUDA_BATCH_SIZE: Final = 16
#: Used when the free memory of the GPU is unknown.
_DEFAULT_CUDA_BATCH_SIZE: Final = 8
#: The share of the memory beside the weights that batches may use.
_BATCH_MEMORY_SHARE: Final = 0.8
#: The memory of a window, in the decoder's caches and the encoder's activations, for each unit of the model's width
#: with beam 5 and float16. Computed from the dimensions of large-v3, which needs the most (32 layers of width 1280).
_BYTES_PER_WIDTH: Final = 640_000
_QUERY_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """The model to load and its device, from the settings. ``auto`` means what suits this machine.

    With CUDA each of ``device_indexes`` gets a replica. On a CPU there are as many replicas as indexes.
    """

    name: str = "auto"
    device: str = "auto"
    compute_type: str = "auto"
    device_indexes: tuple[int, ...] = (0,)
    cpu_threads: int = 0
    beam_size: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Properties:
    """The properties that a model brings: its thresholds and the compute types on CUDA that suit it, the best first."""

    thresholds: Thresholds
    cuda_compute_types: tuple[str, ...]


def load(choice: ModelChoice) -> tuple[WhisperModel, ...]:
    """Return the replicas of a model, after downloading it from the hub if necessary. Blocks.

    Raises:
        ModelUnavailable: the model can't be loaded; the message names the remedies.
    """
    kind = choose_device(choice.device, indexes=choice.device_indexes, probe_model=DEMO_MODEL)
    name = choice.name
    if name == "auto":
        name = "large-v3-turbo" if kind == "cuda" else "small"
    properties = _properties(name)
    preferred = properties.cuda_compute_types if kind == "cuda" else CPU_COMPUTE_TYPES
    device = Device(kind, choose_compute_type(kind, choice.compute_type, preferred, index=choice.device_indexes[0]))
    logger.info("🧠 Loading model %s on %s (%s)...", name, device.kind, device.compute_type)
    import httpx2  # huggingface-hub's HTTP client, whose errors it raises

    try:
        return tuple(
            _load_replica(choice, name, device, properties.thresholds, number)
            for number in range(len(choice.device_indexes))
        )
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as exc:
        logger.debug("Loading %s failed", name, exc_info=True)
        raise ModelUnavailable(_explain(name, exc)) from exc


def _load_replica(choice: ModelChoice, name: str, device: Device, thresholds: Thresholds, number: int) -> WhisperModel:
    import faster_whisper

    model = faster_whisper.WhisperModel(
        _location(name),
        device=device.kind,
        device_index=choice.device_indexes[number] if device.kind == "cuda" else 0,
        compute_type=device.compute_type,
        cpu_threads=_cpu_threads(choice),
    )
    return WhisperModel(model, name=name, device=device, beam_size=choice.beam_size, thresholds=thresholds)


def _location(name: str) -> str:
    return str(DEMO_MODEL) if name == "demo" else name


def _cpu_threads(choice: ModelChoice) -> int:
    """Return the number of threads of each replica. CTranslate2's own default is at most four."""
    cores = choice.cpu_threads or len(os.sched_getaffinity(0))
    return max(1, cores // len(choice.device_indexes))


def _properties(name: str) -> _Properties:
    """Return what the model's ``transcription.json`` says, and the defaults for the rest."""
    path = Path(_location(name)) / "transcription.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    cuda_compute_types = tuple(stored.pop("cuda_compute_types", CUDA_COMPUTE_TYPES))
    return _Properties(thresholds=Thresholds(**stored), cuda_compute_types=cuda_compute_types)


def _explain(name: str, exc: Exception) -> str:
    """Return a message with the cause and the remedies."""
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
        f"The model {name!r} can't be loaded ({cause}): set WHISPER_MODEL to a directory with a converted model, or to "
        "a size such as small or large-v3-turbo while the hub is reachable (HF_ENDPOINT: a mirror, HF_HOME: a filled "
        "cache, HF_TOKEN: access to private models, HTTPS_PROXY: a proxy), or try ./start_server.sh --demo, which "
        "needs no download."
    )


def auto_batch_size(model: WhisperModel) -> int:
    """Return the batch size for a model that has been loaded, given the memory that is free on its device. Blocks."""
    if model.device.kind == "cpu":
        return CPU_BATCH_SIZE
    free_bytes = free_cuda_bytes()
    return _DEFAULT_CUDA_BATCH_SIZE if free_bytes is None else cuda_batch_size(free_bytes, width=model.width)


def cuda_batch_size(free_bytes: int, *, width: int) -> int:
    """Return the batch size that fits into ``free_bytes``. A batch that does not fit after all is halved later."""
    return max(1, min(MAX_CUDA_BATCH_SIZE, int(free_bytes * _BATCH_MEMORY_SHARE / (width * _BYTES_PER_WIDTH))))


def free_cuda_bytes() -> int | None:
    """Return the free memory of the GPU with the least, or None if the driver's tool does not report it."""
    try:
        output = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"],  # noqa: S607  # its path differs
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        ).stdout
        return min(int(line) for line in output.split()) * 1024 * 1024
    except (OSError, subprocess.SubprocessError, ValueError):
        logger.debug("The free memory of the GPU is unknown", exc_info=True)
        return None
