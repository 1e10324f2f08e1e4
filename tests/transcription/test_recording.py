"""Samples of one channel are read from a file of interleaved channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.transcription import recording
from app.transcription.recording import Recording

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.anyio
@pytest.mark.parametrize("channels", [1, 2, 32])
async def test_channel_is_read_in_steps(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_READ_BYTES", 640)
    interleaved = np.random.default_rng(1).integers(-(2**15), 2**15, (1000, channels), dtype=np.int16)
    audio = Recording(tmp_path / "pcm")
    interleaved.astype("<i2").tofile(audio.path)
    audio.complete(1000, channels)
    for channel in {0, channels - 1}:
        for start, end in ((0, 1000), (7, 993), (500, 500)):
            np.testing.assert_array_equal(audio.read(channel, start, end), interleaved[start:end, channel])
