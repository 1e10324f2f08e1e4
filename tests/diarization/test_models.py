"""Loading the models, and what they compute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from app.diarization.filter_bank import log_mel
from app.diarization.models import BUNDLED, CHUNK_SAMPLES, VoiceModels
from app.domain.errors import ModelUnavailable

if TYPE_CHECKING:
    import numpy.typing as npt

FILES = ("segmentation.onnx", "campplus.onnx", "telephone.npy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(BUNDLED / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(
        ModelUnavailable, match=rf"{name} can't be read \(No such file or directory\): DIARIZATION_MODEL"
    ):
        VoiceModels.load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    content = (folder / name).read_bytes()
    damaged = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "text": b"version https://example.com/spec/v1\n",
    }
    (folder / name).write_bytes(damaged[damage])
    with pytest.raises(ModelUnavailable, match=f"{name} can't be used: it is damaged"):
        VoiceModels.load(folder)


def test_models_in_each_others_place_are_refused(folder: Path) -> None:
    shutil.copy(BUNDLED / "campplus.onnx", folder / "segmentation.onnx")
    with pytest.raises(ModelUnavailable, match=r"segmentation\.onnx can't be used"):
        VoiceModels.load(folder)


def test_vector_of_another_size_is_refused(folder: Path) -> None:
    np.save(folder / "telephone.npy", np.zeros(3, np.float32))
    with pytest.raises(ModelUnavailable, match=r"telephone\.npy can't be used"):
        VoiceModels.load(folder)


def test_segmentation_of_no_chunks_is_empty(models: VoiceModels) -> None:
    assert models.segment(np.zeros((0, CHUNK_SAMPLES), np.float32)).shape == (0, 589, 3)


def test_embeddings_keep_the_order_of_spectrograms(models: VoiceModels, three_voices: npt.NDArray[np.int16]) -> None:
    audio = three_voices[16_000:].astype(np.float32) * np.float32(1 / 32_768)
    spectrograms = [log_mel(audio[:samples]) for samples in (16_000, 32_000, 12_000, 16_000)]
    together = models.embed(spectrograms)
    apart = np.concatenate([models.embed([spectrogram]) for spectrogram in spectrograms])
    assert np.allclose(together, apart, atol=1e-4)
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    assert models.embed([]).shape == (0, 192)


def test_spectrogram_of_a_tone_peaks_in_its_band() -> None:
    """1,000 Hz is band 27 of the 80 that are equally wide in mel from 20 to 8,000 Hz."""
    tone = np.sin(np.pi / 8 * np.arange(8000, dtype=np.float32))
    spectrogram = log_mel(tone)
    assert spectrogram.shape == (48, 80)
    assert set(spectrogram.argmax(axis=1).tolist()) == {27}
    assert log_mel(tone[:399]).shape == (0, 80)


@pytest.mark.full(reason="starts a process")
def test_models_store_no_telemetry(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from app.diarization.models import VoiceModels\n"
        "VoiceModels.load(); time.sleep(1)"
    )
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": os.environ["PATH"]}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(root)], env=environment, cwd=tmp_path, check=True, timeout=240)
    assert list(tmp_path.rglob("*nnxruntime*")) == []
