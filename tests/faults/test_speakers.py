"""Requests whose speakers are told apart, while processes are killed, disks fill up and references are bad."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faster_whisper import decode_audio

from tests.faults.forked_program import forked_program
from tests.support.audio import RATE, SAMPLES, encode, silence
from tests.support.disks import filled, small_disk
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.audio import Samples

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="tells speakers apart in long recordings")]


@pytest.fixture(scope="module")
def talk() -> Samples:
    """Return the recording of two speakers, both in one channel: 12.6 s."""
    channels = decode_audio(str(SAMPLES / "two_speakers_stereo.flac"), split_stereo=True)
    mixed: Samples = (np.sum(channels, axis=0) * 32767).clip(-32768, 32767).astype(np.int16)
    return mixed


def written(path: Path, samples: Samples) -> Path:
    return encode(path, samples, container="flac", codec="flac")


def speakers(rttm: str) -> list[str]:
    return sorted({line.split()[7] for line in rttm.splitlines()})


def test_process_that_is_killed_while_it_hears_a_recording_is_continued(tmp_path: Path, talk: Samples) -> None:
    recording = written(tmp_path / "long.flac", np.tile(talk, 4))
    reference = written(tmp_path / "anna.flac", np.tile(talk[round(0.4 * RATE) : round(2.0 * RATE)], 2))
    environment = {"DIARIZATION_THREADS": "1", "WHISPER_DEVICE": "cpu"}
    fields = {"stored_output": "true", "diarize": "true", "known_speaker_names[]": "Anna"}
    with forked_program(tmp_path, **environment) as first:
        first.until_ready()
        job_id = first.submit(recording, references=[reference], **fields)
        first.eventually(lambda: first.job(job_id)["progress_percent"] > 0, pause=0.02)  # it is heard
        assert first.job(job_id)["status"] == "processing"
        first.kill()
    folder = tmp_path / "data" / "jobs" / job_id
    assert (folder / "reference-1").exists()
    with forked_program(tmp_path, **environment) as second:
        second.until_ready()
        second.until(job_id, "completed")
        rttm = second.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "rttm"}).text
        assert speakers(rttm) == ["A", "Anna"]
        assert [path.name for path in folder.iterdir()] == ["result.json"]


async def test_job_that_is_heard_waits_for_space(
    tmp_path: Path, model: WhisperModel, talk: Samples, caplog: pytest.LogCaptureFixture
) -> None:
    recording = written(tmp_path / "audio.flac", np.tile(talk, 5))
    with small_disk(tmp_path / "disk", size="8m") as disk:
        async with serving(disk / "data", lambda: model, spool_min_free_bytes=0) as running:
            with filled(disk, leaving=2_000_000):  # enough for the file, and not for its samples
                job_id = await running.submit(recording, stored_output="true", diarize="true")
                await eventually(lambda: f"Job {job_id}: the disk is full" in caplog.text)
            assert (await running.finished(job_id))["status"] == "completed"
            result = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "rttm"})
            assert speakers(result.text) == ["A", "B"]


async def test_bad_reference_is_an_error_of_the_request(tmp_path: Path, model: WhisperModel, talk: Samples) -> None:
    recording = written(tmp_path / "audio.flac", talk)
    reference = await asyncio.to_thread(written(tmp_path / "silent.flac", silence(3.0)).read_bytes)
    async with serving(tmp_path / "data", lambda: model) as running:
        response = await running.client.post(
            "/v1/audio/transcriptions",
            files=[("file", recording.read_bytes()), ("known_speaker_references[]", reference)],
            data={"response_format": "diarized_json", "known_speaker_names[]": "Anna"},
        )
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("known_speaker_references", "invalid_reference")
    assert error["message"].startswith("`known_speaker_references` number 1 has no speech: ")
