"""The batch size that is chosen when none is configured."""

from __future__ import annotations

import ctranslate2
import pytest

from app.transcription.loading import ModelChoice, auto_batch_size, cuda_batch_size, free_cuda_bytes, load

GIB = 1024**3


@pytest.mark.parametrize(
    ("free_gib", "width", "expected"),
    [(0.1, 1280, 1), (6, 1280, 6), (20, 1280, 16), (70, 1280, 16), (2, 512, 5), (8, 384, 16)],
)
def test_batch_on_cuda_fits_into_the_free_memory(free_gib: float, width: int, expected: int) -> None:
    assert cuda_batch_size(round(free_gib * GIB), width=width) == expected


def test_batch_size_on_a_cpu_is_eight() -> None:
    (model,) = load(ModelChoice(name="demo", device="cpu"))
    assert auto_batch_size(model) == 8
    assert model.width == 128


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
def test_free_memory_is_unknown_without_a_driver() -> None:
    assert free_cuda_bytes() is None
