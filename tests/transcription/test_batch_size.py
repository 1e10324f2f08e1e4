"""The batch size that is chosen when none is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ctranslate2
import pytest

from app.transcription.batch_size import auto_batch_size, free_cuda_bytes, measured_batch_size
from app.transcription.loading import ModelChoice, load
from app.transcription.whisper import OutOfMemory
from tests.support.recording_model import recording

if TYPE_CHECKING:
    from app.transcription.whisper import WhisperModel

GIB = 1024**3
#: Seconds of a batch of each size on a GPU that a batch of 16 doesn't fill, and on one that it does.
IMPROVING = {16: 0.5, 32: 0.9, 64: 1.7}
FULL = {16: 0.5, 32: 0.98, 64: 1.96}
SLOW = {16: 1.2, 32: 1.3, 64: 1.4}


class Gpu:
    """A GPU on which a window of a rehearsal takes half a GiB, or ``window_gib``."""

    def __init__(self, seconds: dict[int, float], *, free_gib: float | None, window_gib: float = 0.5) -> None:
        self._seconds = seconds
        self._free = None if free_gib is None else round(free_gib * GIB)
        self._window = round(window_gib * GIB)
        self._used = 0
        self.sizes: list[int] = []

    def rehearse(self, windows: int) -> float:
        self.sizes.append(windows)
        needed = windows * self._window
        if self._free is not None and needed > self._free:
            raise OutOfMemory("CUDA failed with error out of memory")
        self._used = max(self._used, needed)
        return self._seconds.get(windows, 0.1)

    def free_bytes(self) -> int | None:
        return None if self._free is None else self._free - self._used

    @property
    def batch_size(self) -> int:
        return measured_batch_size(self.rehearse, self.free_bytes)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(IMPROVING, 64, id="larger batches are faster"),
        pytest.param(FULL, 16, id="larger batches are as fast"),
        pytest.param({**IMPROVING, 64: 1.8}, 32, id="up to 32"),
        pytest.param(SLOW, 16, id="a batch already takes long"),
    ],
)
def test_larger_batches_than_usual_have_to_be_worth_it(seconds: dict[int, float], expected: int) -> None:
    assert Gpu(seconds, free_gib=200).batch_size == expected


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [
        pytest.param(200, 64, id="for everything"),
        # The longest text takes twice the memory of a rehearsal, and a fifth of the memory stays free.
        pytest.param(50, 32, id="for batches of 40"),
        pytest.param(20, 16, id="for batches of 16"),
        pytest.param(10, 8, id="for the rehearsal, not for the longest text"),
        pytest.param(5, 4, id="for a rehearsal of half the size"),
        pytest.param(0.6, 1, id="for one window"),
        pytest.param(0.1, 1, id="for none"),
    ],
)
def test_batch_fits_into_the_free_memory(free_gib: float, expected: int) -> None:
    assert Gpu(IMPROVING, free_gib=free_gib).batch_size == expected


def test_batches_are_small_if_the_memory_is_unknown() -> None:
    gpu = Gpu(IMPROVING, free_gib=None)
    assert gpu.batch_size == 8
    assert gpu.sizes == [16]


def test_larger_batch_that_runs_out_of_memory_after_all_is_not_used() -> None:
    class Fragmented(Gpu):
        def rehearse(self, windows: int) -> float:
            if windows > 16:
                raise OutOfMemory("CUDA failed with error out of memory")
            return super().rehearse(windows)

    assert Fragmented(IMPROVING, free_gib=200).batch_size == 16


def test_rehearsal_decodes_the_same_number_of_tokens_for_every_window(model: WhisperModel) -> None:
    wrapped, recorder = recording(model)
    assert wrapped.rehearse(3) > 0
    (generation,) = recorder.generations
    assert [len(text) for text in generation.texts] == [32, 32, 32]
    assert [features.shape for features in recorder.spectrograms] == [(80, 3000)] * 3


def test_batch_size_on_a_cpu_is_eight() -> None:
    (model,) = load(ModelChoice(name="demo", device="cpu", cpu_threads=1))
    assert auto_batch_size(model) == 6


@pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
def test_free_memory_is_unknown_without_a_driver() -> None:
    assert free_cuda_bytes() is None
