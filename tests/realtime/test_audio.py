"""Audio of clients becomes 16 kHz PCM, the same for pieces of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.realtime.audio import RATE, AudioDecoder, AudioFormat, Resampler

if TYPE_CHECKING:
    import numpy.typing as npt


def tone(hertz: float, rate: int, *, seconds: float = 1.0) -> npt.NDArray[np.int16]:
    times = np.arange(round(seconds * rate)) / rate
    wave: npt.NDArray[np.int16] = np.rint(10_000 * np.sin(2 * np.pi * hertz * times)).astype(np.int16)
    return wave


def decibels(samples: npt.NDArray[np.int16]) -> float:
    """Return the level of samples without their edges, relative to that of a tone."""
    middle = samples[500:-500].astype(np.float64)
    return float(20 * np.log10(np.sqrt((middle**2).mean()) * 2**0.5 / 10_000 + 1e-9))


@pytest.mark.parametrize(("rate", "hertz"), [(24_000, 300), (24_000, 3_400), (24_000, 6_000), (8_000, 3_000)])
def test_resampling_keeps_speech(rate: int, hertz: float) -> None:
    resampled = Resampler(rate).feed(tone(hertz, rate))
    assert abs(decibels(resampled)) < 0.1
    crossings = np.flatnonzero(np.diff(np.signbit(resampled[500:-500])))
    assert len(crossings) / (len(resampled) - 1_000) * RATE / 2 == pytest.approx(hertz, rel=0.01)


@pytest.mark.parametrize("hertz", [9_000, 11_000])
def test_frequencies_that_would_alias_are_removed(hertz: float) -> None:
    assert decibels(Resampler(24_000).feed(tone(hertz, 24_000))) < -60


@given(sizes=st.lists(st.integers(0, 700), max_size=20), audio_format=st.sampled_from(AudioFormat))
def test_pieces_give_the_same_as_the_whole(sizes: list[int], audio_format: AudioFormat) -> None:
    content = np.random.default_rng(0).integers(0, 256, 4_001, np.uint8).tobytes()
    decoder, parts, position = AudioDecoder(audio_format), [], 0
    for size in [*sizes, len(content)]:
        parts.append(decoder.feed(content[position : position + size]))
        position += size
    whole = AudioDecoder(audio_format).feed(content)
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(whole) > 0


def test_a_second_becomes_a_second() -> None:
    for audio_format, content in (
        (AudioFormat.PCM, bytes(48_000)),
        (AudioFormat.PCMU, b"\xff" * 8_000),
        (AudioFormat.PCMA, b"\xd5" * 8_000),
    ):
        samples = AudioDecoder(audio_format).feed(content)
        assert RATE - 100 < len(samples) <= RATE
        assert np.abs(samples).max() <= 16  # A-law has no zero


#: Bytes and samples of ITU-T G.711: the loudest, the quietest, and some between.
@pytest.mark.parametrize(
    ("audio_format", "samples"),
    [
        (AudioFormat.PCMU, {0x00: -32124, 0x80: 32124, 0x7F: 0, 0xFF: 0, 0xE7: 260, 0x50: -876}),
        (AudioFormat.PCMA, {0x2A: -32256, 0xAA: 32256, 0x55: -8, 0xD5: 8, 0xC4: 280, 0x71: -656}),
    ],
)
def test_g711_has_the_values_of_its_standard(audio_format: AudioFormat, samples: dict[int, int]) -> None:
    for byte, sample in samples.items():
        steady: npt.NDArray[Any] = AudioDecoder(audio_format).feed(bytes([byte]) * 400)
        assert abs(int(steady[-1]) - sample) <= 1
