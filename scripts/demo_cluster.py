"""Demonstrate a cluster on this machine: PostgreSQL, an S3, two API nodes and two workers, one of which is killed.

20 recordings are submitted through both API nodes, and their transcripts are found in the bucket. The model is the
bundled demo model. PostgreSQL must be installed; its service need not run.

python scripts/demo_cluster.py [--exit]
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import httpx
from demo_service import (
    BUCKET,
    JOB_SECONDS,
    ROOT,
    SAMPLES,
    DemoFailed,
    Service,
    environment,
    expected_text,
    has_ended,
    is_same_text,
    run,
    say,
    submit,
    uploaded_text,
)
from local_postgres import LocalPostgres, PostgresMissing
from local_s3 import LocalS3
from ports import free_port

JOBS: Final = 20
#: The audio and the results of the cluster; BUCKET belongs to its client.
SPOOL_BUCKET: Final = "cluster"
DATABASE: Final = "transcription"
#: The longest is first, so that the workers are busy when one is killed.
RECORDINGS: Final = (
    *("long.opus", "two_speakers_stereo.flac", "code.flac", "phone_8k.wav", "hello.wav"),
    *("numbers.mp3", "report.m4a", "colours.webm", "upload.ogg"),
)
#: The submissions after which a worker is killed as soon as it is busy.
KILLED_AFTER: Final = 5
STALE_SECONDS: Final = 5
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A job, the node that accepted it, its recording, and the key of its transcript in the bucket."""

    job_id: str
    node: str
    sample: Path
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes of a running cluster, and its S3."""

    api_nodes: tuple[Service, Service]
    workers: tuple[Service, Service]
    store: LocalS3

    def start(self, stack: ExitStack) -> None:
        """Start all nodes, which end with ``stack``, and return when they are ready."""
        nodes = (*self.api_nodes, *self.workers)
        for node in nodes:
            stack.enter_context(node)
        for node in nodes:
            stack.callback(node.terminate)  # all of them, before one of them is waited for
        for node in nodes:
            node.wait_until_ready()


def demonstrate(keep_running: bool) -> bool:  # noqa: FBT001  # as `run` calls it
    """Run the demo, and return whether all transcripts are right."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transcription-demo-")))
        try:
            postgres = stack.enter_context(LocalPostgres())
        except PostgresMissing as exc:
            raise DemoFailed(str(exc)) from exc
        store = stack.enter_context(LocalS3(folder / "s3"))
        for bucket in (BUCKET, SPOOL_BUCKET):
            store.create_bucket(bucket)
        settings = cluster_settings(postgres.create_database(DATABASE), store)
        migrate(folder, settings)
        say(f"PostgreSQL  127.0.0.1:{postgres.port}, database {DATABASE}: jobs and their queue")
        say(f"S3          {store.endpoint}: bucket {SPOOL_BUCKET} of the cluster, bucket {BUCKET} of its client")
        cluster = create_cluster(folder, settings, store)
        cluster.start(stack)
        for node in cluster.api_nodes:
            say(f"API node    {node.name}, {node.address}")
        for node in cluster.workers:
            say(f"Worker      {node.name}, {node.address}")
        say("")
        right = transcribe_all(cluster)
        if keep_running:
            print_examples(cluster)
            signal.pause()
    return right


def cluster_settings(database_url: str, store: LocalS3) -> dict[str, str]:
    """Return the settings that all nodes share."""
    return {
        "DATABASE_URL": database_url,
        "SPOOL_URL": f"s3://{SPOOL_BUCKET}/spool",
        "CLUSTER_SECRET": secrets.token_hex(32),
        "CLUSTER_STALE_SECONDS": str(STALE_SECONDS),
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "AWS_REGION": "us-east-1",
        "URL_ALLOWED_HOSTS": f"127.0.0.1:{store.port}",
        "SHUTDOWN_GRACE_SECONDS": "2",
        "WHISPER_MODEL": "demo",
        "WHISPER_DEVICE": "cpu",
        "WHISPER_CPU_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),  # for two workers
    }


def migrate(folder: Path, settings: dict[str, str]) -> None:
    """Create the tables, as an operator does before the first start."""
    migration = subprocess.run(
        [sys.executable, "-m", "app", "migrate"],
        cwd=folder,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if migration.returncode:
        raise DemoFailed(f"The tables could not be created:\n{migration.stdout}")


def create_cluster(folder: Path, settings: dict[str, str], store: LocalS3) -> Cluster:
    """Return a cluster that has not been started."""
    first_api, second_api, first_worker, second_worker = (
        Service(folder, {**settings, "ROLE": role}, port=free_port(), name=f"{role}-{number}")
        for role in ("api", "worker")
        for number in (1, 2)
    )
    return Cluster(api_nodes=(first_api, second_api), workers=(first_worker, second_worker), store=store)


def transcribe_all(cluster: Cluster) -> bool:
    """Submit the recordings, kill a worker meanwhile, and return whether all transcripts in the bucket are right."""
    began_at = time.monotonic()
    submissions = []
    killed = False
    recordings = islice(cycle(RECORDINGS), JOBS)
    for number, (node, recording) in enumerate(zip(cycle(cluster.api_nodes), recordings, strict=False), start=1):
        key = f"{number:02}-{Path(recording).stem}.json"
        response = submit(node.address, SAMPLES / recording, cluster.store, key)
        job_id = response.json()["job_id"]
        submissions.append(Submission(job_id=job_id, node=node.name, sample=SAMPLES / recording, key=key))
        killed = killed or (number > KILLED_AFTER and kill_if_busy(cluster.workers[0]))
    say(f"Submitted   {JOBS} recordings in {time.monotonic() - began_at:.1f} s, through both API nodes in turn")
    jobs = wait_for_all(cluster, submissions, killed=killed)
    say("")
    return print_table(submissions, jobs, cluster.store)


def kill_if_busy(worker: Service) -> bool:
    """Kill a worker if it is transcribing, and return whether it was."""
    transcriptions = httpx.get(f"{worker.address}/health").json()["concurrency"]["active_transcriptions"]
    if not transcriptions:
        return False
    worker.kill()
    say(
        f"Killed      {worker.name} (kill -9) with {transcriptions} transcriptions in progress: its jobs run again "
        f"after {STALE_SECONDS} s without a sign of life (30 s unless CLUSTER_STALE_SECONDS is set)"
    )
    return True


def wait_for_all(cluster: Cluster, submissions: list[Submission], *, killed: bool) -> dict[str, dict[str, Any]]:
    """Return all jobs by their ids once they have ended; each is read from the node that did not accept it."""
    others = dict(zip((node.name for node in cluster.api_nodes), reversed(cluster.api_nodes), strict=True))
    jobs: dict[str, dict[str, Any]] = {}
    shown = ""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        killed = killed or kill_if_busy(cluster.workers[0])
        for submission in submissions:
            if not has_ended(jobs.get(submission.job_id, {"status": ""})):
                response = httpx.get(f"{others[submission.node].address}/v1/jobs/{submission.job_id}")
                jobs[submission.job_id] = response.raise_for_status().json()
        counts = Counter(job["status"] for job in jobs.values())
        state = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        if state != shown:
            say(f"            {state}")
            shown = state
        if all(has_ended(job) for job in jobs.values()):
            if not killed:
                raise DemoFailed("All jobs ended before a worker was killed: start the demo again.")
            return jobs
        time.sleep(_PAUSE_SECONDS)
    raise DemoFailed(f"The jobs did not end within {JOB_SECONDS:.0f} s.")


def print_table(submissions: list[Submission], jobs: dict[str, dict[str, Any]], store: LocalS3) -> bool:
    """Print a line for each job, and return whether all transcripts are right."""
    say(f"{'Job':<38}{'Recording':<26}{'Accepted by':<13}{'Status':<11}{'Starts':>6}{'Seconds':>9}  Transcript")
    right_count = 0
    for submission in submissions:
        job = jobs[submission.job_id]
        right = job["status"] == "completed" and is_same_text(
            uploaded_text(store, submission.key), expected_text(submission.sample)
        )
        right_count += right
        say(
            f"{submission.job_id:<38}{submission.sample.name:<26}{submission.node:<13}{job['status']:<11}"
            f"{job.get('attempts', 0):>6}{job['elapsed_time']:>9.1f}  {'right' if right else 'WRONG'}"
        )
    say(f"\n{right_count} of {len(submissions)} transcripts in s3://{BUCKET} are right.")
    return right_count == len(submissions)


def print_examples(cluster: Cluster) -> None:
    """Print commands to try next."""
    first, second = (node.address for node in cluster.api_nodes)
    say(
        f"""
The cluster keeps running, with one worker, until you press Ctrl-C. Try, in another terminal in this folder:

  curl -F file=@{(SAMPLES / "hello.wav").relative_to(ROOT)} {first}/v1/audio/transcriptions

  curl {second}/v1/jobs

  curl {second}/health

docs/cluster.md describes how to run one. The pages: {first}/ {second}/
"""
    )


if __name__ == "__main__":
    sys.exit(run(demonstrate, __doc__))
