"""A node of a cluster whose device is simulated: see `benchmarks.simulated_device`.

SIMULATED_SPEED=0.1 python -m benchmarks.simulated_node
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import app.main
from app.__main__ import end, main
from benchmarks.random_model import Vocabulary
from benchmarks.replacing import replace
from benchmarks.simulated_device import SimulatedWhisper, simulated_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.settings import Settings
    from app.transcription.whisper import WhisperModel


def _load(_settings: Settings, _name: str) -> Sequence[WhisperModel]:
    vocabulary = Vocabulary()
    speed = float(os.environ["SIMULATED_SPEED"])
    return [simulated_model(SimulatedWhisper(speed, vocabulary), vocabulary)]


if __name__ == "__main__":
    replace(app.main, "_load_model", _load)
    end(main())
