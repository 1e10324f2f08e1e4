"""The program as an operator runs it: start, wrong settings, missing models, signals, exit codes."""

from __future__ import annotations

import json
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.__main__ import listen
from tests.faults.forked_program import forked_program
from tests.support.fault_server import answer, fault_server_in_thread
from tests.support.program import program

pytestmark = pytest.mark.full(reason="starts a process for each test")


@pytest.mark.smoke
def test_start_logs_the_settings(tmp_path: Path) -> None:
    with program(tmp_path, LOG_FORMAT="json", API_KEYS="very-secret") as running:
        running.until_ready()
        refused = running.client.get("/v1/jobs")
        running.process.send_signal(signal.SIGTERM)
        assert running.ends_with() == 0
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    said = "\n".join(line["message"] for line in lines)
    assert refused.status_code == 401
    assert "Model demo" in said
    assert "Concurrency: 3 GPU slots, 1000 requests may wait" in said
    assert "connect 30s, upload 600s (3 attempts, rounds for 86400s)" in said
    assert "very-secret" not in running.log.read_text()


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [
        ("0.0.0.0", "", True),  # noqa: S104  # what is warned of
        ("0.0.0.0", "k" * 32, False),  # noqa: S104  # likewise
        ("127.0.0.1", "", False),
        ("localhost", "", False),
    ],
)
def test_open_service_on_a_public_address_warns(tmp_path: Path, host: str, keys: str, *, warns: bool) -> None:
    with forked_program(tmp_path, HOST=host, API_KEYS=keys) as running:
        running.until_ready()
        log = running.log.read_text()
    warning = f"WARNING 🔓 HOST={host} accepts requests from other machines and API_KEYS is empty: ANYONE WHO CAN"
    assert (warning in log) == warns


def test_short_keys_are_named_in_a_warning(tmp_path: Path) -> None:
    with forked_program(tmp_path, API_KEYS="alice:short-secret," + "k" * 32) as running:
        running.until_ready()
        log = running.log.read_text()
    assert "API_KEYS has keys that are easy to guess (alice): use at least 16 random characters" in log
    assert "short-secret" not in log


def test_limit_on_open_files_is_raised_for_the_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = ("sh", "-c", f"ulimit -S -n 256; exec {sys.executable} -m app")
    with program(tmp_path, few, MAX_CONNECTIONS="700") as running:
        running.until_ready()
        limits = Path(f"/proc/{running.process.pid}/limits").read_text(encoding="utf-8")
        log = running.log.read_text()
    (allowed,) = [int(line.split()[3]) for line in limits.splitlines() if line.startswith("Max open files")]
    assert allowed == min(1900, hard)
    assert ("files may be open" in log) == (hard < 1900)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


@pytest.mark.smoke
def test_invalid_settings_stop_the_start_with_one_sentence_each(tmp_path: Path) -> None:
    with program(tmp_path, MAX_CONCURRENT_REQUESTS="abc", WHISPER_DEVICE="tpu") as running:
        assert running.ends_with() == 1
        lines = running.log.read_text().splitlines()
    assert len(lines) == 2
    assert any(line.startswith('MAX_CONCURRENT_REQUESTS must be a whole number, got "abc": ') for line in lines)
    assert any(line.startswith("WHISPER_DEVICE must be ") for line in lines)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("small", ("HF_ENDPOINT", "a directory", "--demo")),
        ("no-such-size", ("expected one of", "a directory", "--demo")),
        ("/tmp", ("model.bin",)),
    ],
)
def test_unloadable_model_ends_the_start_with_one_sentence(tmp_path: Path, model: str, words: tuple[str, ...]) -> None:
    # An address where nobody listens stands for a hub that can't be reached.
    with program(tmp_path, WHISPER_MODEL=model, HF_ENDPOINT="http://127.0.0.1:9") as running:
        assert running.ends_with() == 1
        log = running.log.read_text()
    (sentence,) = [line for line in log.splitlines() if "❌" in line]
    for word in words:
        assert word in sentence
    assert "Traceback" not in log


def test_second_process_on_the_same_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    data = str(tmp_path / "data")
    with program(tmp_path / "first", DATA_DIR=data) as first:
        first.until_ready()
        with program(tmp_path / "second", DATA_DIR=data) as second:
            assert second.ends_with() == 1
            log = second.log.read_text()
    assert "is in use by another process" in log
    assert "Traceback" not in log


def test_running_job_finishes_after_a_signal(tmp_path: Path, samples: Path) -> None:
    with (
        fault_server_in_thread(answer(200)) as receiver,
        program(tmp_path, SHUTDOWN_GRACE_SECONDS="1000") as running,
    ):
        running.until_ready()
        job_id = running.submit(samples / "long.opus", upload_presigned_url=receiver.url("/bucket/key"))
        running.until(job_id, "processing")
        running.process.send_signal(signal.SIGTERM)
        running.eventually(lambda: running.client.get("/health").json()["status"] == "draining")
        assert running.client.get("/health/ready").status_code == 503
        with (samples / "hello.wav").open("rb") as audio:
            refused = running.client.post("/v1/audio/transcriptions", files={"file": audio})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert running.ends_with(seconds=1000) == 0
    (request,) = receiver.requests
    assert json.loads(request.body)["status"] == "completed"


def test_unfinished_jobs_continue_after_the_next_start(tmp_path: Path, samples: Path) -> None:
    """One job is being transcribed, the others are queued."""
    with fault_server_in_thread(answer(200)) as receiver:
        url = receiver.url("/bucket/key")
        with program(tmp_path, SHUTDOWN_GRACE_SECONDS="0", MAX_CONCURRENT_REQUESTS="1") as running:
            running.until_ready()
            ids = [running.submit(samples / "long.opus", upload_presigned_url=url) for _ in range(3)]
            running.until(ids[0], "processing")
            assert running.stop() == 0
            assert f"Job {ids[-1]} goes back to the queue, for the next start" in running.log.read_text()
        assert not any(b'"failed"' in request.body for request in receiver.requests)
        with program(tmp_path) as running:
            running.until_ready()
            assert "3 jobs restored" in running.log.read_text()
            assert list(running.jobs()) == ids[::-1]
            for job_id in ids:
                job = running.until(job_id, "completed")
                assert (job["attempts"], job["delivery"]["attempts"]) == (1, 1)
            assert running.stop() == 0
    documents = [json.loads(request.body) for request in receiver.requests]
    assert sorted(document["job_id"] for document in documents) == sorted(ids)
    assert {document["status"] for document in documents} == {"completed"}


def test_open_streams_of_events_end_with_the_process(tmp_path: Path) -> None:
    with program(tmp_path) as running, ExitStack() as stack:
        running.until_ready()
        streams = [stack.enter_context(running.client.stream("GET", "/v1/events")).iter_text() for _ in range(3)]
        for stream in streams:
            assert "event: hello" in next(stream)
        running.process.send_signal(signal.SIGTERM)
        for stream in streams:
            assert all(text for text in stream)  # until its last chunk, without which this raises
        assert running.ends_with() == 0
        log = running.log.read_text()
    assert "Cancel" not in log, "uvicorn ended a response"
    assert "Traceback" not in log


def test_second_signal_ends_the_process_at_once(tmp_path: Path, samples: Path) -> None:
    with program(tmp_path) as running:
        running.until_ready()
        long = tmp_path / "long.wav"
        _repeat(samples / "hello.wav", long, times=400)
        job_id = running.submit(long, stored_output="true")
        running.until(job_id, "processing")
        running.process.send_signal(signal.SIGTERM)
        running.eventually(lambda: running.client.get("/health").json()["status"] == "draining")
        running.process.send_signal(signal.SIGTERM)
        running.ends_with()
    assert not (tmp_path / "data" / "jobs" / job_id / "result.json").exists()


def _repeat(source: Path, destination: Path, *, times: int) -> None:
    """Write the audio of a WAV file ``times`` times."""
    import wave

    with wave.open(str(source), "rb") as read, wave.open(str(destination), "wb") as written:
        written.setparams(read.getparams())
        samples = read.readframes(read.getnframes())
        for _ in range(times):
            written.writeframes(samples)


@pytest.mark.smoke
def test_responses_do_not_wait_for_delayed_acknowledgements() -> None:
    with (
        listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
