"""The peaks of a recording, from blocks of its samples."""

from __future__ import annotations

import numpy as np

from app.transcription.peaks import Peaks

BLOCK = 30 * 16_000


def test_peaks_are_shares_of_the_loudest() -> None:
    peaks = Peaks(1)
    samples = np.zeros(BLOCK, np.int16)
    samples[5] = 100
    samples[799] = -200
    samples[800] = 1000
    peaks.add(0, samples)
    peaks.add(0, np.array([0, -500], np.int16))
    waveform = peaks.waveform(30.0)
    (channel,) = waveform.channels
    assert len(channel) == 601
    assert channel[:3] == bytes([51, 255, 0])
    assert channel[600] == 128
    assert waveform.duration == 30.0


def test_loudest_sample_of_all_channels_counts() -> None:
    peaks = Peaks(2)
    peaks.add(1, np.full(800, -32_768, np.int16))
    peaks.add(0, np.full(800, 16_384, np.int16))
    assert peaks.waveform(0.05).channels == (bytes([128]), bytes([255]))


def test_silence_has_no_level() -> None:
    peaks = Peaks(1)
    peaks.add(0, np.zeros(1600, np.int16))
    assert peaks.waveform(0.1).channels == (bytes(2),)
