"""The steps at which nodes of a cluster die or wait: see `tests.faults.crash_points`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.cluster import upkeep
from app.cluster.objects import ObjectSpool
from tests.faults.crash_points import AFTER, BEFORE, Step, install
from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.cluster.faults.namespaces import Namespace

_PAUSE_SECONDS: Final = 0.02
#: The time for which requests to an object store that is away are repeated.
_RETRY_SECONDS: Final = 1.0
_SPOOL: Final = "app.cluster.objects:ObjectSpool"
_STORE: Final = "app.cluster.store:ClusterStore"
_ARRIVING: Final = "app.cluster.object_store:ArrivingObject"
_COPY: Final = "app.cluster.scratch:CheckedCopy"
_TASKS: Final = "app.cluster.tasks:Tasks"
_PIPELINE: Final = "app.jobs.pipeline:Pipeline"
_ROUNDS: Final = "app.jobs.deliveries:DeliveryRounds"
_UPLOADER: Final = "app.delivery.upload:PresignedUploader"
_SENDER: Final = "app.delivery.webhooks:WebhookSender"
_DOWNLOADER: Final = "app.delivery.download:AudioDownloader"
_MODEL: Final = "app.transcription.whisper:WhisperModel"

#: The steps of a node that serves clients, from the first byte of an upload to the end of the webhook.
API_STEPS: Final[dict[str, Step]] = {
    "the first byte arrives": Step(_ARRIVING, "write", AFTER),
    "before the audio is complete": Step(_SPOOL, "complete_audio", BEFORE),
    "the audio is complete": Step(_SPOOL, "complete_audio", AFTER),
    "before the job is committed": Step(_STORE, "_insert", BEFORE),
    "the job is committed": Step(_STORE, "_insert", AFTER),
    "before the PUT begins": Step(_UPLOADER, "put", BEFORE),
    "the PUT has been answered": Step(_UPLOADER, "put", AFTER),
    "the delivery is committed": Step(_ROUNDS, "run", AFTER),
    "before the webhook is sent": Step(_SENDER, "post", BEFORE),
    "the webhook has answered": Step(_SENDER, "post", AFTER),
}
#: The steps of the download of audio that comes by URL.
FETCH_STEPS: Final[dict[str, Step]] = {
    "before the download begins": Step(_DOWNLOADER, "fetch", BEFORE),
    "the download has begun": Step(_ARRIVING, "write", AFTER),
    "the download is complete": Step(_SPOOL, "complete_audio", AFTER),
    "the download is committed": Step(_PIPELINE, "_download", AFTER),
}
#: The steps of a node that transcribes.
WORKER_STEPS: Final[dict[str, Step]] = {
    "the task is taken": Step(_TASKS, "transcribe", BEFORE),
    "the audio is being copied": Step(_COPY, "extend", AFTER),
    "before the model decodes": Step(_MODEL, "decode", BEFORE),
    "the model has decoded": Step(_MODEL, "decode", AFTER),
    "before the result is stored": Step(_SPOOL, "store_result", BEFORE),
    "the result is stored": Step(_SPOOL, "store_result", AFTER),
    "the result is committed": Step(_PIPELINE, "commit_result", AFTER),
    "the audio is removed": Step(_SPOOL, "discard_audio", AFTER),
}
#: The steps just before or after something becomes durable. The others are taken with --long only.
ALWAYS: Final = frozenset(
    {
        "the first byte arrives",
        "the job is committed",
        "the download has begun",
        "the PUT has been answered",
        "the delivery is committed",
        "the task is taken",
        "the audio is being copied",
        "before the model decodes",
        "the result is stored",
        "the result is committed",
    }
)


#: Whether the worker that has a task has given no sign of life for some seconds.
IS_LATE: Final = (
    "SELECT now() - max(last_heartbeat) > make_interval(secs => %s) FROM procrastinate_workers"
    " WHERE id IN (SELECT worker_id FROM procrastinate_jobs WHERE status = 'doing')"
)


def chosen(steps: Mapping[str, Step], *, long: bool) -> dict[str, Step]:
    """Return all steps if ``long``, else the most important ones."""
    assert not ALWAYS - {*API_STEPS, *FETCH_STEPS, *WORKER_STEPS}
    return {name: step for name, step in steps.items() if long or name in ALWAYS}


@dataclass(frozen=True, slots=True)
class Gate:
    """A place where a process waits until the test opens it. Both see the files ``path`` with a suffix."""

    path: Path

    def pass_through(self) -> None:
        """Wait, in the process."""
        self.path.with_suffix(".reached").touch()
        while not self.path.with_suffix(".open").exists():
            time.sleep(_PAUSE_SECONDS)

    def until_reached(self) -> None:
        wait_until(self.path.with_suffix(".reached").exists, seconds=LIMIT_SECONDS)

    def open(self) -> None:
        self.path.with_suffix(".open").touch()


def prepared(steps: Sequence[tuple[Step, Callable[[], None]]], namespace: Namespace | None = None) -> None:
    """Prepare a process that is to be a node: it calls each function at its step, and always looks for orphans."""
    if namespace is not None:
        namespace.enter()
    setattr(upkeep, "_ORPHANS_SECONDS", 0.0)  # noqa: B010  # it is final elsewhere
    defaults = ObjectSpool.__init__.__kwdefaults__
    assert defaults is not None
    assert "retry_seconds" in defaults
    defaults["retry_seconds"] = _RETRY_SECONDS
    for step, act in steps:
        install(step, act)
