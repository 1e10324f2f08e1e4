"""Demonstrate the service on this machine: transcribe a sample and upload the transcript to a local S3.

The model is OpenAI's tiny.en if its package is installed, otherwise the bundled demo model.

python scripts/demo.py [--exit]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import real_models
from local_s3 import LocalS3

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
SAMPLE: Final = ROOT / "samples" / "hello.wav"
#: A person's voice, which the demo model would not understand.
VOICE: Final = ROOT / "tests" / "real" / "recordings" / "jfk.ogg"
BUCKET: Final = "transcripts"
PORT: Final = 8000
START_SECONDS: Final = 90.0
JOB_SECONDS: Final = 120.0
#: Settings in the environment that would break the demo.
IGNORED_SETTINGS: Final = (
    *("API_KEYS", "WEB_PAGE", "LOG_FORMAT", "LOG_LEVEL", "HOST", "MAX_UPLOAD_BYTES", "MAX_AUDIO_SECONDS"),
    *("SPOOL_MAX_BYTES", "SPOOL_MIN_FREE_BYTES"),
)


class DemoFailed(Exception):
    """The demo could not be completed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exit", action="store_true", help="exit after the transcript, with status 0 if it is right")
    keep_running = not parser.parse_args().exit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"  # everything runs on this machine
    try:
        with tempfile.TemporaryDirectory(prefix="transcription-demo-") as folder, LocalS3(Path(folder, "s3")) as store:
            store.create_bucket(BUCKET)
            say(f"S3        {store.endpoint} (rclone, verifies signatures), bucket {BUCKET}")
            with server(Path(folder), {"URL_ALLOWED_HOSTS": f"127.0.0.1:{store.port}"}) as address:
                say(f"Server    {address}, a page for browsers and the API")
                introduce_model(address)
                right = transcribe_sample(address, store)
                if keep_running:
                    print_examples(address, store)
                    signal.pause()
    except DemoFailed as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0 if right else 1


def introduce_model(address: str) -> None:
    """Print the name of the served model and what to expect of it."""
    name = httpx.get(f"{address}/v1/models").json()["data"][0]["id"]
    if name == "demo":
        say(
            "Model     demo, a toy that only knows 132 words, because the package with OpenAI's tiny.en could not be "
            "installed: start the demo again when a package index can be reached.\n"
        )
    else:
        say(f"Model     {name}, OpenAI's smallest: send it any English recording, such as {VOICE.relative_to(ROOT)}\n")


def transcribe_sample(address: str, store: LocalS3) -> bool:
    """Submit the sample, wait for its job, and return whether the uploaded transcript is right."""
    key = "hello.json"
    with SAMPLE.open("rb") as audio:
        response = httpx.post(
            f"{address}/v1/audio/transcriptions",
            files={"file": audio},
            data={"upload_presigned_url": store.presign_put(BUCKET, key)},
        )
    if response.status_code != httpx.codes.OK:
        raise DemoFailed(f"The service refused the audio with status {response.status_code}: {response.text}")
    job_id = response.json()["job_id"]
    milliseconds = response.elapsed.total_seconds() * 1000
    say(f"Job       {job_id} for {SAMPLE.relative_to(ROOT)}, accepted after {milliseconds:.0f} ms")
    job = wait_for_end(f"{address}/v1/jobs/{job_id}")
    if job["status"] != "completed":
        raise DemoFailed(f"The job is {job['status']}: {job.get('error')}")
    document = json.load(store.client().get_object(Bucket=BUCKET, Key=key)["Body"])
    references = json.loads((SAMPLE.parent / "references.json").read_text())
    expected = next(entry["text"] for entry in references if entry["file"] == SAMPLE.name)
    right = words(document["text"]) == words(expected)
    say(f"\nUploaded  s3://{BUCKET}/{key}")
    say(f"Text      {document['text']}")
    say(f"Expected  {expected}")
    say("The transcript is right." if right else "The transcript is WRONG.")
    return right


def words(text: str) -> list[str]:
    """Return the words of a text. The demo model writes neither capitals nor punctuation, tiny.en both."""
    return re.findall(r"[a-z']+", text.lower())


def wait_for_end(url: str) -> dict[str, Any]:
    """Print each change of a job's progress, and return the job when it has ended."""
    shown = ""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        job: dict[str, Any] = httpx.get(url).json()
        state = f"{job['status']:<11}{job['progress_percent']:5.1f} %  {job['progress']}"
        if state != shown:
            say(f"          {state}")
            shown = state
        if job["status"] in ("completed", "failed", "cancelled"):
            return job
        time.sleep(0.02)
    raise DemoFailed(f"The job did not end within {JOB_SECONDS:.0f} s.")


def print_examples(address: str, store: LocalS3) -> None:
    """Print commands to try next."""
    put, get = store.presign_put(BUCKET, "long.json"), store.presign_get(BUCKET, "long.json")
    say(
        f"""
The service keeps running until you press Ctrl-C. Try:

  {address}/ in a browser: drop a recording, read along, correct the text, download subtitles

In another terminal, in this folder:

  curl -F file=@samples/numbers.mp3 {address}/v1/audio/transcriptions

  curl -F file=@samples/long.opus -F response_format=srt {address}/v1/audio/transcriptions

  curl -F file=@samples/report.m4a -F response_format=verbose_json -F 'timestamp_granularities[]=word' \\
    {address}/v1/audio/transcriptions

  curl -F file=@samples/long.opus -F 'upload_presigned_url={put}' \\
    {address}/v1/audio/transcriptions
  curl {address}/v1/jobs
  curl '{get}'

  curl {address}/health

The page: {address}/
"""
    )


def install_model(folder: Path) -> str:
    """Return the model to serve from ``folder``. A link there gives tiny.en its name, instead of its path."""
    tiny_en = real_models.tiny_en()
    if tiny_en is None:
        return "demo"
    (folder / "tiny.en").symlink_to(tiny_en)
    return "tiny.en"


@contextmanager
def server(folder: Path, settings: dict[str, str]) -> Iterator[str]:
    """Run the service as an operator would and yield its address. Print its log if it fails."""
    port = PORT if is_free(PORT) else 0
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {name: value for name, value in os.environ.items() if name.upper() not in IGNORED_SETTINGS} | {
        "WHISPER_MODEL": install_model(folder),
        "WHISPER_DEVICE": "auto",
        "PORT": str(port),
        "DATA_DIR": str(folder / "data"),
        "PYTHONPATH": str(ROOT),
    }
    environment |= settings
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            cwd=folder,  # has no .env, and a link to the model
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_ready(f"{address}/health/ready", process)
        yield address
    except DemoFailed:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Poll ``url`` until the service is ready, or raise DemoFailed."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"The server exited with status {process.returncode}: see its log above.")
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise DemoFailed(f"The server was not ready within {START_SECONDS:.0f} s: see its log above.")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
