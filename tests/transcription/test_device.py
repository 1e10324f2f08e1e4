"""The choice of the device that the model runs on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import ctranslate2
import pytest

from app.domain.errors import ModelUnavailable
from app.domain.transcript import TranscriptionOptions
from app.transcription.admission import FrontEnd
from app.transcription.device import choose_compute_type, choose_device
from app.transcription.engine import WhisperTranscriber
from app.transcription.loading import CPU_COMPUTE_TYPES, DEMO_MODEL, ModelChoice, load
from app.transcription.slots import Slots
from app.transcription.transcriber import Listener

if TYPE_CHECKING:
    from app.transcription.decoding import Decoder

GPUS = ctranslate2.get_cuda_device_count()
without_gpu = pytest.mark.skipif(GPUS > 0, reason="this machine has a GPU")
needs_gpu = pytest.mark.skipif(GPUS == 0, reason="no NVIDIA GPU with a working driver was found here")


def test_cpu_is_used_without_probing_the_gpu() -> None:
    assert choose_device("cpu", indexes=(0,), probe_model=DEMO_MODEL) == "cpu"


@without_gpu
def test_auto_logs_why_it_uses_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        kind = choose_device("auto", indexes=(0,), probe_model=DEMO_MODEL)
    assert kind == "cpu"
    assert caplog.messages == ["Running on the CPU, because no NVIDIA GPU with a working driver was found."]


@without_gpu
def test_missing_cuda_is_an_error_with_the_remedies() -> None:
    with pytest.raises(ModelUnavailable, match=r"WHISPER_DEVICE=cuda does not work.*nvidia-smi.*WHISPER_DEVICE=cpu"):
        choose_device("cuda", indexes=(0,), probe_model=DEMO_MODEL)


def test_unsupported_compute_type_is_rejected_with_the_supported_ones() -> None:
    with pytest.raises(ModelUnavailable, match=r"WHISPER_COMPUTE_TYPE must be auto or one .*int8.*got int3"):
        choose_compute_type("cpu", "int3", CPU_COMPUTE_TYPES, index=0)


@pytest.mark.parametrize(
    ("preferred", "chosen"), [(("int8", "float32"), "int8"), (("int3", "float32"), "float32"), (("int3",), "float32")]
)
def test_auto_is_the_best_supported_compute_type(preferred: tuple[str, ...], chosen: str) -> None:
    assert choose_compute_type("cpu", "auto", preferred, index=0) == chosen


@pytest.mark.gpu
@needs_gpu
def test_auto_uses_cuda_if_a_computation_succeeds() -> None:
    assert choose_device("auto", indexes=(0,), probe_model=DEMO_MODEL) == "cuda"


@pytest.mark.gpu
@needs_gpu
def test_missing_gpu_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="WHISPER_DEVICE_INDEX names GPU 64"):
        choose_device("cuda", indexes=(64,), probe_model=DEMO_MODEL)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.anyio
async def test_demo_model_transcribes_on_the_gpu(samples: Path, tmp_path: Path, decoder: Decoder) -> None:
    import asyncio

    sources = [
        Path(await asyncio.to_thread(shutil.copy, samples / "hello.wav", tmp_path / f"audio{number}"))
        for number in range(4)
    ]
    replicas = await asyncio.to_thread(load, ModelChoice(name="demo", device="cuda"))
    transcriber = WhisperTranscriber(
        replicas,
        front_end=FrontEnd(decoder, slots=3),
        slots=Slots(3),
        batch_size=8,
        on_death=lambda cause: pytest.fail(str(cause)),
    )
    options = TranscriptionOptions(word_timestamps=True)
    transcripts = await asyncio.gather(
        *(transcriber.transcribe(source, options, listener=Listener()) for source in sources)
    )
    await transcriber.close()
    assert replicas[0].device.kind == "cuda"
    assert replicas[0].device.compute_type in ("bfloat16", "float32")  # in float16 its word times are wrong
    assert all(transcript.warnings == () for transcript in transcripts)
    assert {transcript.text for transcript in transcripts} == {"hello this is a test the job is complete now"}
