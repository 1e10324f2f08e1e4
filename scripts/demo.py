"""Demonstrate the service on this machine: transcribe a sample and upload the transcript to a local S3.

The model is OpenAI's tiny.en if its package is installed, otherwise the bundled demo model.

python scripts/demo.py [--exit]
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import real_models
from demo_service import (
    BUCKET,
    JOB_SECONDS,
    ROOT,
    SAMPLES,
    DemoFailed,
    Service,
    expected_text,
    has_ended,
    is_same_text,
    run,
    say,
    submit,
    uploaded_text,
)
from local_s3 import LocalS3
from ports import free_port, is_free

SAMPLE: Final = SAMPLES / "hello.wav"
#: A person's voice, which the demo model would not understand.
VOICE: Final = ROOT / "tests" / "real" / "recordings" / "jfk.ogg"
PORT: Final = 8000


def demonstrate(keep_running: bool) -> bool:  # noqa: FBT001  # as `run` calls it
    """Run the demo, and return whether its transcript is right."""
    with tempfile.TemporaryDirectory(prefix="transcription-demo-") as folder, LocalS3(Path(folder, "s3")) as store:
        store.create_bucket(BUCKET)
        say(f"S3        {store.endpoint} (rclone, verifies signatures), bucket {BUCKET}")
        settings = {
            "URL_ALLOWED_HOSTS": f"127.0.0.1:{store.port}",
            "WHISPER_MODEL": install_model(Path(folder)),
            "WHISPER_DEVICE": "auto",
        }
        with Service(Path(folder), settings, port=PORT if is_free(PORT) else free_port()) as service:
            service.wait_until_ready()
            say(f"Server    {service.address}, a page for browsers and the API")
            introduce_model(service.address)
            right = transcribe_sample(service.address, store)
            if keep_running:
                print_examples(service.address, store)
                signal.pause()
    return right


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
    response = submit(address, SAMPLE, store, key)
    job_id = response.json()["job_id"]
    milliseconds = response.elapsed.total_seconds() * 1000
    say(f"Job       {job_id} for {SAMPLE.relative_to(ROOT)}, accepted after {milliseconds:.0f} ms")
    job = wait_for_end(f"{address}/v1/jobs/{job_id}")
    if job["status"] != "completed":
        raise DemoFailed(f"The job is {job['status']}: {job.get('error')}")
    text, expected = uploaded_text(store, key), expected_text(SAMPLE)
    right = is_same_text(text, expected)
    say(f"\nUploaded  s3://{BUCKET}/{key}")
    say(f"Text      {text}")
    say(f"Expected  {expected}")
    say("The transcript is right." if right else "The transcript is WRONG.")
    return right


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
        if has_ended(job):
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


if __name__ == "__main__":
    sys.exit(run(demonstrate, __doc__))
