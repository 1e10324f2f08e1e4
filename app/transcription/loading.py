"""Loading of a model: where it comes from and on which device it runs."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import ModelUnavailable
from app.transcription.device import Device, choose_compute_type, choose_device
from app.transcription.fallback import Thresholds
from app.transcription.whisper import WhisperModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

#: The bundled model; see docs/demo_model.md.
DEMO_MODEL: Final = Path(__file__).with_name("demo_model")

#: The compute types of ``WHISPER_COMPUTE_TYPE=auto``, the best first.
CPU_COMPUTE_TYPES: Final = ("int8", "float32")
CUDA_COMPUTE_TYPES: Final = ("float16", "float32")


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
        replicas = tuple(
            WhisperModel(
                _open(choice, name, device, number),
                name=name,
                device=device,
                beam_size=choice.beam_size,
                thresholds=properties.thresholds,
            )
            for number in range(len(choice.device_indexes))
        )
        if device.kind == "cuda":
            cpu = Device("cpu", choose_compute_type("cpu", "auto", CPU_COMPUTE_TYPES, index=0))
            ensure_alignment(replicas, partial(_open, choice, name, cpu))
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as exc:
        logger.debug("Loading %s failed", name, exc_info=True)
        raise ModelUnavailable(_explain(name, exc)) from exc
    return replicas


def ensure_alignment(replicas: Sequence[WhisperModel], open_on_cpu: Callable[[], Any]) -> None:
    """Try whether the devices can align words with audio, and let the CPU do it for those that can't."""
    on_cpu = None
    for replica in replicas:
        problem = replica.alignment_problem()
        if problem is not None:
            if on_cpu is None:
                logger.warning("⚠️ The GPU can't align words with audio (%s), so the CPU does, from now on", problem)
                on_cpu = open_on_cpu()
            replica.align_with(on_cpu)


def _open(choice: ModelChoice, name: str, device: Device, number: int = 0) -> Any:
    """Return faster-whisper's model."""
    import faster_whisper

    return faster_whisper.WhisperModel(
        _location(name),
        device=device.kind,
        device_index=choice.device_indexes[number] if device.kind == "cuda" else 0,
        compute_type=device.compute_type,
        cpu_threads=_cpu_threads(choice),
    )


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
        "needs no hub."
    )
