"""How many windows go onto the model at once where nobody says (``WHISPER_BATCH_SIZE=auto``)."""

from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from app.transcription.whisper import WhisperModel

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
