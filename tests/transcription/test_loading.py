"""How many windows go onto a device together where nobody says."""

from __future__ import annotations

import ctranslate2
import pytest

from app.transcription.loading import ModelChoice, auto_batch_size, fitting, free_cuda_bytes, load

GIB = 1024**3


@pytest.mark.parametrize(
    ("free_gib", "width", "expected"),
    [(0.1, 1280, 1), (6, 1280, 6), (20, 1280, 16), (70, 1280, 16), (2, 512, 5), (8, 384, 16)],
)
def test_batch_fits_into_the_free_memory(free_gib: float, width: int, expected: int) -> None:
    assert fitting(round(free_gib * GIB), width=width) == expected


def test_on_a_cpu_it_is_eight() -> None:
    (model,) = load(ModelChoice(name="demo", device="cpu"))
    assert auto_batch_size(model) == 8
    assert model.width == 128


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
def test_without_a_driver_the_free_memory_is_not_known() -> None:
    assert free_cuda_bytes() is None
