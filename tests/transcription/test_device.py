"""Where the model runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import ctranslate2
import pytest

from app.domain.errors import ModelUnavailable
from app.transcription.device import Device, choose_device
from app.transcription.speech import Span, as_float
from app.transcription.whisper import DEMO_MODEL, ModelChoice, load

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.decoding import Decoder

GPUS = ctranslate2.get_cuda_device_count()
without_gpu = pytest.mark.skipif(GPUS > 0, reason="this machine has a GPU")
needs_gpu = pytest.mark.skipif(GPUS == 0, reason="no NVIDIA GPU with a working driver was found here")


def test_cpu_is_taken_without_a_look_at_the_gpu() -> None:
    assert choose_device("cpu", "auto", indexes=(0,), probe_model=DEMO_MODEL) == Device("cpu", "int8")


@without_gpu
def test_auto_says_once_why_it_runs_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        device = choose_device("auto", "auto", indexes=(0,), probe_model=DEMO_MODEL)
    assert device.kind == "cpu"
    assert caplog.messages == ["Running on the CPU, because no NVIDIA GPU with a working driver was found."]


@without_gpu
def test_cuda_that_was_asked_for_stops_the_start_with_the_remedy() -> None:
    with pytest.raises(ModelUnavailable, match=r"WHISPER_DEVICE=cuda, but .*nvidia-smi.*WHISPER_DEVICE=cpu"):
        choose_device("cuda", "auto", indexes=(0,), probe_model=DEMO_MODEL)


def test_compute_type_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ModelUnavailable, match=r"WHISPER_COMPUTE_TYPE=int3 .* choose auto or one of .*int8"):
        choose_device("cpu", "int3", indexes=(0,), probe_model=DEMO_MODEL)


@pytest.mark.gpu
@needs_gpu
def test_auto_takes_cuda_after_a_first_computation_there() -> None:
    device = choose_device("auto", "auto", indexes=(0,), probe_model=DEMO_MODEL)
    assert device == Device("cuda", "float16")


@pytest.mark.gpu
@needs_gpu
def test_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="WHISPER_DEVICE_INDEX names GPU 64"):
        choose_device("cuda", "auto", indexes=(64,), probe_model=DEMO_MODEL)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.anyio
async def test_demo_model_transcribes_on_the_gpu(samples: Path, tmp_path: Path, decoder: Decoder) -> None:
    import asyncio

    import numpy as np

    from app.domain.transcript import TranscriptionOptions

    decoded = await decoder.decode(samples / "hello.wav", tmp_path / "pcm")
    pcm = await asyncio.to_thread(np.fromfile, decoded.pcm, "<i2")
    model = await asyncio.to_thread(load, ModelChoice(name="demo", device="cuda"))
    audio = as_float(pcm, Span(0, len(pcm)))
    found = await asyncio.to_thread(
        model.transcribe_window, audio, TranscriptionOptions(), language=None, offset_seconds=0.0
    )
    assert model.device.kind == "cuda"
    assert "".join(segment.text for segment in found.segments).strip() == "hello this is a test the job is complete now"
