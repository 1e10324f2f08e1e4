"""A cluster of whole programs: each node is a process, with a real PostgreSQL and a real S3 between them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import psycopg

from tests.cluster.faults.steps import prepared
from tests.faults.forked_program import ForkedProgram
from tests.support.program import free_port
from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from local_s3 import LocalS3

    from tests.cluster.faults.namespaces import Namespace
    from tests.faults.crash_points import Step
    from tests.faults.receiver import Receiver

    Steps = Sequence[tuple[Step, Callable[[], None]]]

CLUSTER_SECRET: Final = "0123456789abcdef0123456789abcdef"
WEBHOOK_SECRET: Final = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYg=="
BUCKET: Final = "spool"
#: Long enough for a node on a busy machine, so that nodes that live are not taken for dead.
STALE_SECONDS: Final = 3.0
#: Older than objects that are kept for jobs that still arrive.
_TWO_DAYS_SECONDS: Final = 2 * 24 * 3600
_SETTLED_SECONDS: Final = 30.0


class NodeProgram(ForkedProgram):
    """A node, which calls the function of each of ``steps`` when it gets there; perhaps in a network of its own."""

    def __init__(
        self, folder: Path, role: str, *, steps: Steps = (), namespace: Namespace | None = None, **environment: str
    ) -> None:
        self.role = role
        self.folder = folder
        self.port = environment["PORT"]
        self.steps = tuple(steps)
        self._namespace = namespace
        if namespace is not None:
            environment["HOST"] = namespace.inside
        super().__init__(folder, ROLE=role, DATA_DIR=str(folder / "data"), **environment)
        if namespace is not None:
            self.client.base_url = f"http://{namespace.inside}:{self.port}"

    def _preparation(self) -> Callable[[], None]:
        return partial(prepared, self.steps, self._namespace)

    def scratch(self) -> list[str]:
        """Return the files of jobs in the node's scratch folder."""
        return [str(path) for path in (self.folder / "data" / "jobs").rglob("*") if path.is_file()]


class ClusterPrograms:
    """Starts and kills the nodes of one cluster. All of them end with the block."""

    def __init__(self, folder: Path, *, database_url: str, store: LocalS3, **settings: str) -> None:
        self.nodes: list[NodeProgram] = []
        self.store = store
        self._folder = folder
        self._database_url = database_url
        self._numbers = count(1)
        self._settings = {
            "DATABASE_URL": database_url,
            "SPOOL_URL": f"s3://{BUCKET}/jobs",
            "CLUSTER_SECRET": CLUSTER_SECRET,
            "CLUSTER_STALE_SECONDS": str(STALE_SECONDS),
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "SHUTDOWN_GRACE_SECONDS": "0",
            "SPOOL_MIN_FREE_BYTES": "0",
            "MAX_QUEUED_JOBS": "100000",
            **settings,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.close()

    def start(
        self, role: str, *, steps: Steps = (), namespace: Namespace | None = None, **settings: str
    ) -> NodeProgram:
        """Start a node in a folder and on a port of its own, and return it when it is ready."""
        folder = self._folder / f"{role}-{next(self._numbers)}"
        node = self._start(folder, role, steps=steps, namespace=namespace, **settings)
        node.until_ready()
        return node

    def start_all(self, *roles: str) -> list[NodeProgram]:
        """Start several nodes at once, and return them when all are ready."""
        nodes = [self._start(self._folder / f"{role}-{next(self._numbers)}", role) for role in roles]
        for node in nodes:
            node.until_ready()
        return nodes

    def restart(self, node: NodeProgram) -> NodeProgram:
        """Start a node again that has ended, and return it at once."""
        assert node.has_ended
        node.close()
        self.nodes.remove(node)
        return self._start(node.folder, node.role, steps=node.steps, PORT=node.port)

    def _start(self, folder: Path, role: str, **options: Any) -> NodeProgram:
        folder.mkdir(exist_ok=True)
        options.setdefault("PORT", free_port())
        node = NodeProgram(folder, role, **{**self._settings, **options})
        self.nodes.append(node)
        return node

    # What the database and the bucket have.

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def objects(self) -> set[str]:
        """Return the names of all objects in the bucket."""
        folder = self.store.folder / BUCKET / "jobs"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def age_objects(self) -> None:
        """Make all objects older than any job that still arrives."""
        past = time.time() - _TWO_DAYS_SECONDS
        for path in (self.store.folder / BUCKET).rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    os.utime(path, (past, past))

    # The end.

    def settled(self) -> None:
        """Wait until every job and its deliveries have ended, and no task is left."""
        self._eventually(
            "SELECT 'job', status, next_deliveries::text FROM jobs"
            " WHERE status IN ('queued', 'processing') OR next_deliveries <> '{}' OR synchronous"
            " UNION ALL SELECT 'task', task_name, status::text FROM procrastinate_jobs"
            " WHERE status IN ('todo', 'doing')"
        )

    def check_nothing_is_left(self) -> None:
        """Wait until every job has ended, and check that no task, object or file is left that no job needs."""
        self.settled()
        self._eventually("SELECT job_id FROM progress UNION SELECT job_id FROM segments")
        jobs = self.query("SELECT id::text, result_name FROM jobs")
        results = {f"results/{name}." for _, name in jobs if name}
        self.age_objects()
        try:
            wait_until(lambda: all(_is_of(results, name) for name in self.objects()), seconds=60, pause=0.1)
        finally:
            orphans = [name for name in self.objects() if not _is_of(results, name)]
            assert not orphans, orphans
        missing = [name for name in results if not any(each.startswith(name) for each in self.objects())]
        assert not missing, missing
        wait_until(lambda: not self._scratch(), seconds=60, pause=0.1)

    def check_puts(self, receiver: Receiver) -> int:
        """Check that every PUT of a job was the same, and return how many were repeated."""
        repeated = 0
        for path in receiver.paths():
            bodies = receiver.results(path)
            assert len(set(bodies)) == 1, path
            repeated += len(bodies) - 1
        return repeated

    def _eventually(self, statement: str) -> None:
        """Wait until a statement finds no rows."""
        try:
            wait_until(lambda: not self.query(statement), seconds=_SETTLED_SECONDS, pause=0.1)
        except AssertionError as exc:
            exc.add_note(str(self.query(statement)))
            for node in self.nodes:
                exc.add_note(f"{node.folder.name}:\n{node.log.read_text()[-5000:]}")
            raise

    def _scratch(self) -> list[str]:
        return [path for node in self.nodes if not node.has_ended for path in node.scratch()]


def _is_of(results: set[str], name: str) -> bool:
    return any(name.startswith(result) for result in results)


@dataclass(slots=True, kw_only=True)
class Submission:
    """A job of a client that repeats its request with the same key until it is answered."""

    number: int
    receiver: Receiver
    samples: Path
    sample: str = "hello.wav"
    fetched: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    job_id: str = ""

    @property
    def path(self) -> str:
        return f"/results/{self.number}"

    @property
    def event(self) -> str:
        return f"/events/{self.number}"

    def send(self, node: NodeProgram) -> str:
        """Send the request once and return the id of its job.

        Raises:
            httpx.TransportError: the node has died.
        """
        assert self._is_accepted(node)
        return self.job_id

    def post(self, node: NodeProgram) -> httpx.Response:
        """Send the request once and return its response."""
        fields = {
            "upload_presigned_url": self.receiver.url(self.path),
            "webhook_url": self.receiver.url(self.event),
            **self.fields,
        }
        files: dict[str, Any] = {"file": (self.sample, (self.samples / self.sample).read_bytes())}
        if self.fetched:
            fields["s3_presigned_url"] = self.receiver.url(f"/audio/{self.sample}")
            files = {"": ("", b"")}
        return node.client.post(
            "/v1/audio/transcriptions", data=fields, files=files, headers={"Idempotency-Key": f"job {self.number}"}
        )

    def _is_accepted(self, node: NodeProgram) -> bool:
        response = self.post(node)
        if response.status_code == 503:
            return False
        assert response.status_code == 200, response.text
        self.job_id = str(response.json()["job_id"])
        return True

    def send_until_accepted(self, node: NodeProgram) -> str:
        """Repeat the request while it is refused because the database or the object store is away."""
        wait_until(partial(self._is_accepted, node), seconds=LIMIT_SECONDS, pause=0.1)
        return self.job_id

    def send_to_dying(self, node: NodeProgram) -> None:
        """Send the request once, whether it is answered or not."""
        with suppress(httpx.TransportError):
            self.send(node)

    def check(self, node: NodeProgram, text: str) -> None:
        """Check that the job is completed and that its one result and its one event have arrived."""
        job = node.job(self.job_id)
        assert job["status"] == "completed", job
        assert node.client.get(f"/v1/jobs/{self.job_id}/result").json()["text"] == text
        (body,) = set(self.receiver.results(self.path))
        assert text in body.decode()
        assert len({(event.headers["webhook-id"], event.body) for event in self.receiver.events(self.event)}) == 1
