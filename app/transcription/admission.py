"""Who may be decoded next: what bounds the PCM on disk and the decoders, without shutting short requests out.

So many requests are *resident*: being decoded, or decoded and not finished. They share the model in turns. Who waits
for a place among them gets a *peek* meanwhile: its first minute is decoded, and if that is all of it, it goes on to
the model past the long ones that wait.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.transcription.decoding import Decoder


#: Decoders that run at once: these for residents, and one that peeks.
DECODERS: Final = 4
_RESIDENT_DECODERS: Final = DECODERS - 1
#: What may be resident besides those on the model; and how many short ones besides those.
_AHEAD: Final = 4
_SHORT_AHEAD: Final = 8
#: A request that is over within this is short.
PEEK_SECONDS: Final = 60.0
#: Requests that clients wait for which may pass by one that nobody waits for.
_PATIENCE: Final = 4


class Entry(Enum):
    """How a request may come in."""

    WHOLE = auto()
    PEEK = auto()


class Ticket:
    """A request's place before the door and, once it is in, behind it."""

    def __init__(self, door: Admission, *, awaited: bool) -> None:
        self._door = door
        self.awaited = awaited
        self.may_peek = True
        self.entry: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self.held: set[str] = set()

    async def entered(self) -> Entry:
        """How it may come in, once it may."""
        return await asyncio.shield(self.entry)

    def turned_out_long(self) -> None:
        """Gives up the peek and waits on, at its old place."""
        self.may_peek = False
        self.entry = asyncio.get_running_loop().create_future()
        self._door.back(self)

    def decoded(self) -> None:
        """Needs no decoder any more."""
        self._door.release(self, "decoder", "peek")

    def leave(self) -> None:
        """Gives everything up."""
        self._door.leave(self)


class Admission:
    """Lets requests in, those with a waiting client first; a job that was passed by often enough comes next."""

    def __init__(self, *, slots: int) -> None:
        self._free = {
            "resident": slots + _AHEAD,
            "decoder": _RESIDENT_DECODERS,
            "short": slots + _SHORT_AHEAD,
            "peek": DECODERS - _RESIDENT_DECODERS,
        }
        self._lines: dict[bool, deque[Ticket]] = {True: deque(), False: deque()}
        self._passed_by = 0

    def queue(self, *, awaited: bool) -> Ticket:
        """A place at the end of the line."""
        ticket = Ticket(self, awaited=awaited)
        self._lines[awaited].append(ticket)
        self._admit()
        return ticket

    def back(self, ticket: Ticket) -> None:
        self._give_back(ticket, "short", "peek")
        self._lines[ticket.awaited].appendleft(ticket)
        self._admit()

    def release(self, ticket: Ticket, *kinds: str) -> None:
        self._give_back(ticket, *kinds)
        self._admit()

    def leave(self, ticket: Ticket) -> None:
        if ticket in self._lines[ticket.awaited]:
            self._lines[ticket.awaited].remove(ticket)
        self.release(ticket, *self._free)

    def _give_back(self, ticket: Ticket, *kinds: str) -> None:
        for kind in kinds:
            if kind in ticket.held:
                ticket.held.remove(kind)
                self._free[kind] += 1

    def _admit(self) -> None:
        while self._let_in(Entry.WHOLE, "resident", "decoder") or self._let_in(Entry.PEEK, "short", "peek"):
            pass

    def _let_in(self, entry: Entry, *kinds: str) -> bool:
        ticket = self._next(peek=entry is Entry.PEEK) if all(self._free[kind] for kind in kinds) else None
        if ticket is None:
            return False
        self._lines[ticket.awaited].remove(ticket)
        for kind in kinds:
            self._free[kind] -= 1
            ticket.held.add(kind)
        ticket.entry.set_result(entry)
        return True

    def _next(self, *, peek: bool) -> Ticket | None:
        heads = {
            awaited: next((ticket for ticket in line if ticket.may_peek or not peek), None)
            for awaited, line in self._lines.items()
        }
        awaited, job = heads[True], heads[False]
        if awaited is None or job is None:
            return awaited or job
        self._passed_by = 0 if self._passed_by >= _PATIENCE else self._passed_by + 1
        return awaited if self._passed_by else job


T = TypeVar("T")

#: Threads that look for speech and compute features, for all requests together.
_THREADS: Final = 4


class FrontEnd:
    """The way from a file to windows. ``slots`` is how many requests are on the models at once."""

    def __init__(self, decoder: Decoder, *, slots: int) -> None:
        self.decoder = decoder
        self.door = Admission(slots=slots)
        threads = min(_THREADS, max(1, len(os.sched_getaffinity(0))))
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="front")

    def run(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """What ``work`` gives, computed in a thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
