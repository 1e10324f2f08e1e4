"""Which device the model runs on, found out by computing something there."""

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

#: What CTranslate2 opens by name at its first encode; in this order, as the second needs the first.
_CUBLAS: Final = ("libcublasLt.so.12", "libcublas.so.12")

#: Between that of requests (0) and that of what nobody waits for (19).
_MODEL_NICENESS: Final = 10

DeviceKind = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Device:
    """``compute_type`` in CTranslate2's words, such as ``float16`` or ``int8``."""

    kind: DeviceKind
    compute_type: str


def lower_thread_priority() -> None:
    """Has this thread, and the model's threads that it will start, make way for those that answer requests.

    On Linux a thread has a priority of its own and hands it on to those that it starts.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _MODEL_NICENESS)


def choose_device(wanted: str, compute_type: str, *, indexes: tuple[int, ...], probe_model: Path) -> Device:
    """The device for ``wanted`` (``auto``, ``cuda`` or ``cpu``).

    ``auto`` takes CUDA only after the tiny ``probe_model`` has encoded something there.

    Raises:
        ModelUnavailable: CUDA was asked for and does not work, or the compute type does not exist there.
    """
    trouble = None if wanted == "cpu" else cuda_trouble(indexes, probe_model)
    if wanted == "cuda" and trouble is not None:
        raise ModelUnavailable(
            f"WHISPER_DEVICE=cuda, but {trouble}: check the driver with nvidia-smi, install the CUDA 12 cuBLAS "
            "(start_server.sh does, where it finds a driver), or set WHISPER_DEVICE=cpu."
        )
    if trouble is not None:
        logger.warning("Running on the CPU, because %s.", trouble)
    kind: DeviceKind = "cpu" if wanted == "cpu" or trouble is not None else "cuda"
    return Device(kind, _compute_type(kind, compute_type, index=indexes[0]))


def cuda_trouble(indexes: tuple[int, ...], probe_model: Path) -> str | None:
    """Why CUDA can't be used, or None when a tiny encode succeeded on every device asked for."""
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
            _encode_something(probe_model, index)
    except (RuntimeError, ValueError) as exc:
        logger.debug("The probe on CUDA failed", exc_info=True)
        return f"a first computation on the GPU failed ({exc})"
    return None


def _preload_cublas() -> None:
    """Opens the cuBLAS of the ``nvidia-cublas-cu12`` package, if it is installed.

    A library that is open already is found by its name, without ``LD_LIBRARY_PATH``.
    """
    spec = importlib.util.find_spec("nvidia.cublas") if importlib.util.find_spec("nvidia") else None
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in _CUBLAS:
            library = Path(folder) / "lib" / name
            if library.is_file():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _encode_something(model: Path, index: int) -> None:
    import ctranslate2
    import numpy as np

    whisper = ctranslate2.models.Whisper(str(model), device="cuda", device_index=index)
    silence = ctranslate2.StorageView.from_array(np.zeros((1, whisper.n_mels, 3000), np.float32))
    whisper.encode(silence, to_cpu=True)


def _compute_type(kind: DeviceKind, wanted: str, *, index: int) -> str:
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types(kind, index if kind == "cuda" else 0)
    if wanted == "auto":
        preferred = "float16" if kind == "cuda" else "int8"
        return preferred if preferred in supported else "float32"
    if wanted != "default" and wanted not in supported:
        raise ModelUnavailable(
            f"WHISPER_COMPUTE_TYPE={wanted} does not exist on this {kind}: choose auto or one of "
            f"{', '.join(sorted(supported))}."
        )
    return wanted
