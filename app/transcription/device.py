"""The device that the model runs on. CUDA is chosen only after a computation on it has succeeded."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from app.domain.errors import ModelUnavailable

logger = logging.getLogger(__name__)

#: The libraries that CTranslate2 opens by name at its first encode. The second needs the first.
_CUBLAS: Final = ("libcublasLt.so.12", "libcublas.so.12")

#: The niceness of the model's threads: those that answer requests have 0, and 19 is the lowest priority. Beside other
#: busy processes, Linux gives a thread half the time of theirs at 3, and a tenth at 10, at which a clip of 4 s took
#: 142 s on two cores with 20 of them.
_MODEL_NICENESS: Final = 3

DeviceKind = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of device and CTranslate2's compute type on it, such as ``float16`` or ``int8``."""

    kind: DeviceKind
    compute_type: str


def lower_thread_priority(niceness: int = _MODEL_NICENESS) -> None:
    """Give this thread a lower priority than those that answer requests. Threads that it starts inherit it on Linux."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def choose_device(requested: str, *, indexes: tuple[int, ...], probe_model: Path) -> DeviceKind:
    """Return the kind of device for ``requested``, which is ``auto``, ``cuda`` or ``cpu``.

    ``auto`` means CUDA if the tiny ``probe_model`` can encode on all GPUs of ``indexes``, else the CPU.

    Raises:
        ModelUnavailable: CUDA is requested and does not work.
    """
    problem = None if requested == "cpu" else cuda_problem(indexes, probe_model)
    if requested == "cuda" and problem is not None:
        raise ModelUnavailable(
            f"WHISPER_DEVICE=cuda does not work, because {problem}: check the driver with nvidia-smi, install cuBLAS "
            "for CUDA 12 (start_server.sh does if it finds a driver), or set WHISPER_DEVICE=cpu."
        )
    if problem is not None:
        logger.warning("Running on the CPU, because %s.", problem)
    return "cpu" if requested == "cpu" or problem is not None else "cuda"


def cuda_problem(indexes: tuple[int, ...], probe_model: Path) -> str | None:
    """Return the reason why CUDA can't be used, or None if all GPUs of ``indexes`` have encoded something."""
    import ctranslate2

    count = ctranslate2.get_cuda_device_count()
    if count == 0:
        return "no NVIDIA GPU with a working driver was found"
    missing = [index for index in indexes if index >= count]
    if missing:
        return f"WHISPER_DEVICE_INDEX names GPU {missing[0]} and there are {count}, counted from 0"
    _preload_cublas()
    try:
        for index in indexes:
            _encode_silence(probe_model, index)
    except (RuntimeError, ValueError) as exc:
        logger.debug("The probe on CUDA failed", exc_info=True)
        return f"a first computation on the GPU failed ({exc})"
    return None


def _preload_cublas() -> None:
    """Open the cuBLAS of the ``nvidia-cublas-cu12`` package, if it is installed.

    CTranslate2 then finds the open libraries by their names, without ``LD_LIBRARY_PATH``.
    """
    spec = importlib.util.find_spec("nvidia.cublas") if importlib.util.find_spec("nvidia") else None
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for name in _CUBLAS:
            library = Path(folder) / "lib" / name
            if library.is_file():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _encode_silence(model: Path, index: int) -> None:
    import ctranslate2
    import numpy as np

    whisper = ctranslate2.models.Whisper(str(model), device="cuda", device_index=index)
    silence = ctranslate2.StorageView.from_array(np.zeros((1, whisper.n_mels, 3000), np.float32))
    whisper.encode(silence, to_cpu=True)


def choose_compute_type(kind: DeviceKind, requested: str, preferred: tuple[str, ...], *, index: int) -> str:
    """Return the compute type for ``requested``. ``auto`` means the first of ``preferred`` that the device supports.

    Raises:
        ModelUnavailable: the device does not support the requested type.
    """
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types(kind, index if kind == "cuda" else 0)
    if requested == "auto":
        return next((name for name in preferred if name in supported), "float32")
    if requested != "default" and requested not in supported:
        raise ModelUnavailable(
            f"WHISPER_COMPUTE_TYPE must be auto or one that this {kind} supports "
            f"({', '.join(sorted(supported))}), got {requested}."
        )
    return requested
