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
        if job.synchronous:
            return
        with self._lock:
            self._latest += 1
            changes = self._owners.setdefault(job.owner, _OwnerChanges())
            changes.add(Change(self._latest, job.id, is_removal))
        for listener in self._listeners:
            listener()

    def since(self, number: int, *, owner: str) -> list[Change] | None:
        """Return the changes of an owner's jobs after ``number`` in order, or None if some are no longer known."""
        with self._lock:
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
                self._forgotten = self._changes.pop(oldest).number

    def since(self, number: int) -> list[Change] | None:
        if number < self._forgotten:
            return None
        newest_first = []
        for change in reversed(self._changes.values()):
            if change.number <= number:
                break
            newest_first.append(change)
        return newest_first[::-1]
