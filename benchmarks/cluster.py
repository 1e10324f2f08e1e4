"""Measure a cluster on this machine, with its PostgreSQL, and write the sections into ``benchmarks/RESULTS.md``.

    python -m benchmarks.cluster [recovery] [throughput] [overhead] [waiting]

All nodes, the database and the clients share one machine, so devices are simulated where the speed of a cluster is
measured: they sleep, and need no cores. The spool is a folder.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import psycopg

from app.cluster import schema
from app.cluster.database import Database
from app.cluster.queue import Lane, queue_of
from app.cluster.records import Records
from app.jobs.retention import Retention
from benchmarks import machine
from benchmarks.__main__ import write
from benchmarks.figures import row
from benchmarks.recordings import recording
from benchmarks.serving import SAMPLES, node, submit

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
from local_postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import httpx

_SECRET: Final = secrets.token_hex(16)
_MODEL: Final = "simulated"
_DEVICE: Final = "benchmarks.simulated_node"
_POLL_SECONDS: Final = 0.02
#: The pause between two requests for the number of jobs that are completed, which cost the service time.
_HEALTH_SECONDS: Final = 0.2
#: Recovery: tasks that a worker holds when it is killed, and rounds for each number of seconds without a sign of life.
_HELD: Final = 8
_ROUNDS: Final = {30: 2, 6: 3}
#: Throughput: the speed of a simulated device, so that this machine's cores can feed four, and clips for each.
_SPEED: Final = 0.08
_CLIPS: Final = 48
_BATCH: Final = 16
#: Overhead: jobs of 5 s, and how many are submitted at a time.
_JOBS: Final = 40
_AT_ONCE: Final = 10
#: Waiting: jobs of the first owner, and of each of the others, who come later.
_FIRST: Final = 9_900
_OWNERS: Final = 5
_EACH: Final = 20
_SERVED: Final = 60
_ARE_SERVED: Final = "SELECT count(*) >= %s FROM jobs WHERE NOT needs_transcription AND NOT synchronous"
_SERVED_BY_OWNER: Final = (
    "SELECT owner, count(*) FROM jobs WHERE NOT needs_transcription AND NOT synchronous GROUP BY owner"
)
_REQUESTS: Final = 8
_FETCHES: Final = 100


@dataclass(frozen=True)
class Cluster:
    """A database and a folder that nodes share."""

    url: str
    settings: dict[str, str]

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def device(self, *, speed: float = _SPEED) -> Any:
        """Start a worker on a simulated device."""
        return node(
            "worker", module=_DEVICE, SIMULATED_SPEED=str(speed), WHISPER_BATCH_SIZE=str(_BATCH), **self.settings
        )

    def until(self, statement: str, *values: Any, seconds: float = 600.0) -> float:
        """Wait until a statement returns true, and return the time."""
        deadline = time.monotonic() + seconds
        with psycopg.connect(self.url, autocommit=True) as connection:
            while True:
                found = connection.execute(statement.encode(), values).fetchone()
                if found and found[0]:
                    return time.monotonic()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Still false after {seconds:.0f} s: {statement}")
                time.sleep(_POLL_SECONDS)

    def until_completed(self, jobs: int) -> float:
        return self.until("SELECT count(*) >= %s FROM jobs WHERE status = 'completed'", jobs)


@contextmanager
def clusters() -> Iterator[Callable[..., Cluster]]:
    """Run a PostgreSQL, and yield a function that makes an empty cluster with some settings."""
    numbers = count()

    async def migrate(url: str) -> None:
        database = Database(url)
        await database.open()
        await schema.migrate(database)
        await database.close()

    with LocalPostgres(fsync="on") as postgres, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:

        def create(*, model: str = _MODEL, stale_seconds: float = 30, **settings: str) -> Cluster:
            number = next(numbers)
            url = postgres.create_database(f"cluster_{number}")
            asyncio.run(migrate(url))
            return Cluster(
                url,
                {
                    "DATABASE_URL": url,
                    "SPOOL_URL": f"file://{folder}/{number}",
                    "CLUSTER_SECRET": _SECRET,
                    "CLUSTER_STALE_SECONDS": str(stale_seconds),
                    "WHISPER_MODEL": model,
                    "MAX_QUEUED_JOBS": "100000",
                    **settings,
                },
            )

        yield create


def clip(folder: Path) -> Path:
    return recording(folder / "clip.wav", seconds=5)


# The time until the jobs of a dead worker run again.


def measure_recovery(create: Callable[..., Cluster], folder: Path) -> str:
    rows = []
    for stale_seconds, rounds in _ROUNDS.items():
        seconds = [each for _ in range(rounds) for each in recovered(create(stale_seconds=stale_seconds), clip(folder))]
        rows.append(
            f"| {stale_seconds} s | {rounds} | {len(seconds)} | {min(seconds):.1f} | {statistics.median(seconds):.1f} "
            f"| {max(seconds):.1f} |"
        )
    return "\n".join(
        [
            "## Cluster: jobs of a dead worker",
            "",
            f"A worker is killed with `kill -9` while it holds {_HELD} tasks and another one is idle; seconds until "
            "each of the jobs runs there.",
            "",
            "| CLUSTER_STALE_SECONDS | kills | jobs | min | median | max |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def recovered(cluster: Cluster, audio: Path) -> list[float]:
    """Return the seconds until each task of a killed worker ran on another one."""
    with node("api", **cluster.settings) as (api, _), ExitStack() as stack:
        _, doomed = stack.enter_context(cluster.device(speed=0.02))
        for _ in range(_HELD):
            submit(api, audio)
        cluster.until("SELECT count(*) = %s FROM procrastinate_jobs WHERE status = 'doing'", _HELD)
        before = dict(cluster.query("SELECT id, worker_id FROM procrastinate_jobs WHERE status = 'doing'"))
        stack.enter_context(cluster.device(speed=0.02))
        killed = time.monotonic()
        os.kill(doomed, signal.SIGKILL)
        seconds: dict[int, float] = {}
        with psycopg.connect(cluster.url, autocommit=True) as connection:
            while len(seconds) < _HELD:
                now = time.monotonic() - killed
                for task, worker in connection.execute(
                    "SELECT id, worker_id FROM procrastinate_jobs WHERE status = 'doing'"
                ):
                    if worker != before[task]:
                        seconds.setdefault(task, now)
                time.sleep(_POLL_SECONDS)
    return list(seconds.values())


# Throughput on several devices.


def measure_throughput(create: Callable[..., Cluster], folder: Path) -> str:
    rates: dict[int, float] = {}
    for workers in (1, 2, 4):
        rates[workers] = rate(create(MAX_CONCURRENT_REQUESTS=str(_BATCH - 8)), clip(folder), workers=workers)
    rows = [f"| {workers} | {each:.2f} | {each / workers / rates[1]:.2f} |" for workers, each in rates.items()]
    return "\n".join(
        [
            "## Cluster: throughput",
            "",
            f"{_CLIPS} clips of 5 s for each worker, submitted at once through one node; simulated devices of a speed "
            f"of {_SPEED:g} with batches of {_BATCH}.",
            "",
            "| workers | clips per second | linear = 1 |",
            "|---|---|---|",
            *rows,
        ]
    )


def rate(cluster: Cluster, audio: Path, *, workers: int) -> float:
    """Return the clips per second from the first submission until the last one is completed."""
    with ExitStack() as stack:
        api, _ = stack.enter_context(node("api", **cluster.settings))
        for _ in range(workers):
            stack.enter_context(cluster.device())
        clips = workers * _CLIPS
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: submit(api, audio), range(clips)))
        return clips / (cluster.until_completed(clips) - began)


# Overhead per job.


def measure_overhead(create: Callable[..., Cluster], folder: Path, *, rounds: int = 5) -> str:
    del folder
    accepted: dict[str, list[float]] = {"cluster": [], "process": []}
    ended: dict[str, list[float]] = {"cluster": [], "process": []}
    for _ in range(rounds):
        for name, program in (
            ("cluster", node("all", **create(model="demo").settings)),
            ("process", node("all", WHISPER_MODEL="demo")),
        ):
            with program as (client, _):
                submit(client, SAMPLES / "hello.wav")
                until_completed(client, 1)
                first, last = submitted(client)
                accepted[name].append(first)
                ended[name].append(last)
    each = 1000 * (statistics.median(ended["cluster"]) - statistics.median(ended["process"])) / _JOBS
    return "\n".join(
        [
            "## Cluster: overhead",
            "",
            f"{_JOBS} jobs of 5 s, {_AT_ONCE} at a time, bundled model: a cluster of one node with `ROLE=all`, its "
            f"PostgreSQL and a folder, and one process without; seconds, medians of {rounds} rounds in turns. "
            f"Per job it is {each:.0f} ms.",
            "",
            "| until | cluster | one process | process = 1 (from, to) |",
            "|---|---|---|---|",
            row("all accepted", accepted["cluster"], accepted["process"]),
            row("all ended", ended["cluster"], ended["process"]),
        ]
    )


def submitted(client: httpx.Client) -> tuple[float, float]:
    """Return the seconds until all jobs were accepted, and until all of them had ended."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        began = time.monotonic()
        list(threads.map(lambda _: submit(client, SAMPLES / "hello.wav"), range(_JOBS)))
        accepted = time.monotonic() - began
        until_completed(client, 1 + _JOBS)
        return accepted, time.monotonic() - began


def until_completed(client: httpx.Client, jobs: int) -> None:
    while client.get("/health").json()["concurrency"]["completed"] < jobs:
        time.sleep(_HEALTH_SECONDS)


# Ten thousand jobs that wait.


def measure_waiting(create: Callable[..., Cluster], folder: Path) -> str:
    names = ["first", *(f"later{number}" for number in range(_OWNERS))]
    keys = {name: f"{name}-0123456789abcdef" for name in names}
    cluster = create(API_KEYS=",".join(f"{name}:{key}" for name, key in keys.items()))
    audio = clip(folder)
    with node("api", **cluster.settings) as (api, _), cluster.device(speed=1.0):
        api.headers["Authorization"] = f"Bearer {keys['later0']}"
        request_seconds(api, audio)
        alone = [request_seconds(api, audio) for _ in range(_REQUESTS)]
    with node("api", **cluster.settings) as (api, _):
        api.headers["Authorization"] = f"Bearer {keys['first']}"
        asyncio.run(multiply(cluster, submit(api, audio), _FIRST))
        for name in names[1:]:
            api.headers["Authorization"] = f"Bearer {keys[name]}"
            for _ in range(_EACH):
                submit(api, audio)
        api.headers["Authorization"] = f"Bearer {keys['first']}"
        ((waiting,),) = cluster.query("SELECT count(*) FROM jobs WHERE needs_transcription")
        pages = [timed(lambda: api.get("/v1/jobs", params={"limit": 100}).raise_for_status()) for _ in range(20)]
        fetches = fetch_seconds(cluster)
        sizes = cluster.query(
            "SELECT name, pg_total_relation_size(name::regclass) FROM unnest(ARRAY['jobs', 'procrastinate_jobs',"
            " 'procrastinate_events']) name"
        )
        with cluster.device(speed=1.0):
            api.headers["Authorization"] = f"Bearer {keys['later0']}"
            cluster.until("SELECT count(*) >= 1 FROM jobs WHERE NOT needs_transcription")
            beside = [request_seconds(api, audio) for _ in range(_REQUESTS)]
            cluster.until(_ARE_SERVED, _SERVED)
            served = cluster.query(_SERVED_BY_OWNER)
    shares = ", ".join(str(number) for _, number in sorted(served))
    return "\n".join(
        [
            "## Cluster: ten thousand jobs waiting",
            "",
            f"{waiting:,} jobs: {_FIRST + 1:,} of one owner, then {_EACH} of each of {_OWNERS} others.",
            "",
            "| | |",
            "|---|---|",
            f"| the first {sum(number for _, number in served)} to end, by owner | {shares} |",
            f"| a synchronous clip of 5 s, simulated device of speed 1: alone | {spread(alone)} |",
            f"| the same beside them | {spread(beside)} |",
            f"| a page of 100 jobs over HTTP | {spread(pages)} |",
            f"| fetching a task | {spread(fetches)} |",
            *(f"| table `{name}` with its indexes | {size / 1e6:.1f} MB |" for name, size in sizes),
        ]
    )


async def multiply(cluster: Cluster, job_id: str, copies: int) -> None:
    """Let more jobs wait that are like one that waits, each with audio, a task and a place in the fair order."""
    records = Records([_SECRET], retention=Retention(finished_seconds=3600.0, undelivered_seconds=3600.0))
    audio = Path(cluster.settings["SPOOL_URL"].removeprefix("file://")) / "audio"
    queue = queue_of(Lane.SHORT, _MODEL)
    database = Database(cluster.url)
    await database.open()
    try:
        async with database.transaction() as connection:
            (live,) = await records.read(connection, "WHERE jobs.id = %s", UUID(job_id))
            rows = []
            for number in range(copies):
                job = replace(live.job, id=str(uuid4()))
                await asyncio.to_thread(os.link, audio / job_id, audio / job.id)
                rows.append({**records.columns(job), "owner": job.owner, "tag": -(number + 2)})
            names = [name for name in rows[0] if name != "tag"]
            holes = ", ".join(f"%({name})s" for name in names)
            await connection.cursor().executemany(
                "WITH task AS (INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args) VALUES"  # noqa: S608  # names of columns
                " (%(queue)s, 'transcribe', %(tag)s, jsonb_build_object('job_id', %(id)s)) RETURNING id)"
                f" INSERT INTO jobs ({', '.join(names)}, synchronous, task_id) SELECT {holes}, false, id FROM task",
                [{**row, "queue": queue} for row in rows],
            )
            await connection.execute("UPDATE tags SET tag = %s WHERE queue = %s", (copies + 1, queue))
    finally:
        await database.close()


def request_seconds(client: httpx.Client, audio: Path) -> float:
    """Return how long a synchronous request takes."""
    content = audio.read_bytes()
    return timed(
        lambda: client.post("/v1/audio/transcriptions", files={"file": content}, timeout=600).raise_for_status()
    )


def fetch_seconds(cluster: Cluster) -> list[float]:
    """Return how long it takes to fetch a task, each time the same one."""
    queues = [queue_of(lane, _MODEL) for lane in (Lane.NOW, Lane.SHORT)]
    times = []
    with psycopg.connect(cluster.url) as connection:
        worker = connection.execute("SELECT worker_id FROM procrastinate_register_worker_v1()").fetchone()
        assert worker is not None
        connection.execute("SAVEPOINT before")
        for _ in range(_FETCHES):
            began = time.perf_counter()
            connection.execute("SELECT id FROM procrastinate_fetch_job_v2(%s, %s)", (queues, worker[0])).fetchone()
            times.append(time.perf_counter() - began)
            connection.execute("ROLLBACK TO SAVEPOINT before")
    return times


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def spread(seconds: Sequence[float]) -> str:
    return f"median {1000 * statistics.median(seconds):.0f} ms, max {1000 * max(seconds):.0f} ms"


PARTS: Final[dict[str, Callable[[Callable[..., Cluster], Path], str]]] = {
    "recovery": measure_recovery,
    "throughput": measure_throughput,
    "overhead": measure_overhead,
    "waiting": measure_waiting,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    with clusters() as create, tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name in arguments.parts or PARTS:
            section = PARTS[name](create, Path(folder))
            section += f"\n\n{machine.describe().partition('. Load')[0]}. Load before: {load}."
            write(section)
            print(f"{section}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
