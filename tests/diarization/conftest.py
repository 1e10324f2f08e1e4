"""The bundled models, and a recording of three people whose turns are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.diarization.models import VoiceModels
from benchmarks.diarization_error import read_rttm
from benchmarks.talks import read

if TYPE_CHECKING:
    import numpy.typing as npt

    from app.domain.transcript import Turn

_DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def models() -> VoiceModels:
    return VoiceModels.load()


@pytest.fixture(scope="session")
def three_voices() -> npt.NDArray[np.int16]:
    return np.rint(read(_DATA / "three_voices.flac") * 32_768).astype(np.int16)


@pytest.fixture(scope="session")
def three_voices_turns() -> list[Turn]:
    return read_rttm(_DATA / "three_voices.rttm")["three_voices"]
