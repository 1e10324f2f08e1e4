"""The latest change of each job, in order, so that a client that was away learns what it has missed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.domain.job import Job

#: The number of removals that are remembered for each owner.
_MOST_REMOVALS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """The latest change of a job. ``number`` grows with every change of any job."""

    number: int
    job_id: str
    is_removal: bool = False


class ChangeLog:
    """The latest change of each background job, by owner. All methods are safe to call from any thread.

    Numbers begin again with each process, which ``boot_id`` tells apart.
    """

    def __init__(self) -> None:
        self.boot_id = secrets.token_hex(6)
        self._owners: dict[str, _OwnerChanges] = {}
        self._latest = 0
        self._restarted_at = 0
        self._lock = Lock()
        self._listeners: list[Callable[[], None]] = []

    @property
    def latest(self) -> int:
        """The number of the latest change, 0 before the first."""
        return self._latest

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change, in the thread that made it."""
        self._listeners.append(listener)

    def record(self, job: Job, *, is_removal: bool = False) -> None:
        """Record that a job was accepted, has changed or was forgotten. Synchronous jobs are left out."""
        if not job.synchronous:
            self._record(job.id, owner=job.owner, is_removal=is_removal)

    def record_removal(self, job_id: str, *, owner: str) -> None:
        """Record that a background job was forgotten of which nothing else is known here."""
        self._record(job_id, owner=owner, is_removal=True)

    def restart(self) -> None:
        """Take note that changes may have been missed: nothing is known of the time before."""
        with self._lock:
            self._latest += 1
            self._restarted_at = self._latest
        self.announce()

    def announce(self) -> None:
        """Call the listeners, because something has changed that is shown with jobs: places in the queue."""
        for listener in self._listeners:
            listener()

    def drop(self, job: Job) -> None:
        """Drop the latest change of a job that this process no longer remembers, so that it can't be read."""
        with self._lock:
            if (changes := self._owners.get(job.owner)) is not None:
                changes.drop(job.id)

    def _record(self, job_id: str, *, owner: str, is_removal: bool) -> None:
        with self._lock:
            self._latest += 1
            self._owners.setdefault(owner, _OwnerChanges()).add(Change(self._latest, job_id, is_removal))
        self.announce()

    def since(self, number: int, *, owner: str) -> list[Change] | None:
        """Return the changes of an owner's jobs after ``number`` in order, or None if some are no longer known."""
        with self._lock:
            if number < self._restarted_at:
                return None
            changes = self._owners.get(owner)
            return [] if changes is None else changes.since(number)


class _OwnerChanges:
    """The latest changes of one owner's jobs, in order."""

    def __init__(self) -> None:
        self._changes: dict[str, Change] = {}
        self._removals: dict[str, None] = {}
        self._forgotten = 0

    def add(self, change: Change) -> None:
        self._changes.pop(change.job_id, None)
        self._changes[change.job_id] = change
        if change.is_removal:
            self._removals[change.job_id] = None
            if len(self._removals) > _MOST_REMOVALS:
                oldest = next(iter(self._removals))
                del self._removals[oldest]
                self._forgotten = max(self._forgotten, self._changes.pop(oldest).number)

    def drop(self, job_id: str) -> None:
        if (change := self._changes.pop(job_id, None)) is not None:
            self._removals.pop(job_id, None)
            self._forgotten = max(self._forgotten, change.number)

    def since(self, number: int) -> list[Change] | None:
        if number < self._forgotten:
            return None
        newest_first = []
        for change in reversed(self._changes.values()):
            if change.number <= number:
                break
            newest_first.append(change)
        return newest_first[::-1]
