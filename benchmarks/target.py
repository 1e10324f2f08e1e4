"""The device of a measurement: the processor, or a GPU with a model of the size that it is made for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import random_model

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """A device, and the model and batch size with which it is measured.

    ``tokens`` is the length of the text of each window; ``raw_batch`` is the batch size of the limit.
    """

    device: str
    size: str
    tokens: int
    compute_type: str
    raw_batch: int

    def make_model(self, folder: Path) -> str:
        """Make the model in a folder and return its name for ``WHISPER_MODEL``."""
        return str(random_model.make(self.size, folder, tokens=self.tokens, quantization=self.compute_type))

    @property
    def description(self) -> str:
        return f"{self.size} dimensions, beam 5, {self.compute_type}"


#: Batches of 8 are fastest on two cores.
CPU: Final = Target("cpu", "base", tokens=64, compute_type="int8", raw_batch=8)
CUDA: Final = Target("cuda", "turbo", tokens=100, compute_type="float16", raw_batch=16)
TARGETS: Final = {target.device: target for target in (CPU, CUDA)}


def gpu_name() -> str:
    """Return the name of the GPU, as its driver's tool prints it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
