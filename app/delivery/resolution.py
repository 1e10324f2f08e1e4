"""Host names → addresses, on threads that nothing else waits for."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

#: More than transfers run at once, as a lookup that its transfer has given up goes on until the system ends it.
LOOKUPS: Final = 256


class SystemResolver:
    """The system's resolver, asked by at most ``at_once`` threads; further names wait.

    The event loop's own threads are few and write files: a slow name server, which any client can name, must not use
    them up. A lookup can't be stopped, so its place is free at its end, not when its caller is cancelled; the
    threads are daemons, as the end of the process does not wait for name servers.
    """

    def __init__(self, *, at_once: int = LOOKUPS, lookup: Callable[[str, int], Sequence[str]] | None = None) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._lookup = lookup or system_addresses

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Every address of ``host``, in the system's order of preference.

        Raises:
            OSError: the name has none (``socket.gaierror``), or no thread could be started.
            UnicodeError: it is no name.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        found: Future[Sequence[str]] = Future()
        found.set_running_or_notify_cancel()
        found.add_done_callback(lambda _: _tell(loop, self._places.release))
        try:
            Thread(target=_look_up, args=(found, self._lookup, host, port), name="resolver", daemon=True).start()
        except RuntimeError as exc:
            found.set_exception(OSError(str(exc)))
        return await asyncio.wrap_future(found)


def system_addresses(host: str, port: int) -> Sequence[str]:
    """``getaddrinfo``, which blocks for as long as the system's resolver likes."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _look_up(found: Future[Sequence[str]], lookup: Callable[[str, int], Sequence[str]], host: str, port: int) -> None:
    try:
        addresses = lookup(host, port)
    except Exception as exc:  # noqa: BLE001  whatever it is, it is raised where it is waited for
        found.set_exception(exc)
    else:
        found.set_result(addresses)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
