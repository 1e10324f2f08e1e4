"""The system's resolver with slow name servers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.delivery.client import MAX_LOOKUPS, SystemResolver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.anyio


class SlowServer:
    """A lookup that blocks until ``end`` is set. ``looking`` counts the lookups that have begun."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.looking = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.threads.append(threading.current_thread())
        self.looking.release()
        self.end.wait()
        return [f"{host}:{port}"]

    async def reached(self, count: int) -> None:
        """Wait until ``count`` more lookups have begun."""
        for _ in range(count):
            assert await asyncio.to_thread(self.looking.acquire, timeout=60)


@pytest.fixture
def slow() -> Iterator[SlowServer]:
    server = SlowServer()
    yield server
    server.end.set()
    for thread in server.threads:
        thread.join(60)


async def test_slow_lookups_do_not_delay_the_event_loops_threads(slow: SlowServer) -> None:
    """There are at most 32 of them by default, so ``asyncio.to_thread`` would wait for the name servers."""
    resolver = SystemResolver(lookup=slow)
    lookups = [asyncio.ensure_future(resolver(f"{number}.example", 443)) for number in range(100)]
    await slow.reached(100)
    async with asyncio.timeout(60):
        assert await asyncio.to_thread(lambda: "written") == "written"
    assert not any(lookup.done() for lookup in lookups)
    slow.end.set()
    assert await asyncio.gather(*lookups) == [[f"{number}.example:443"] for number in range(100)]


async def test_lookups_beyond_the_limit_wait(slow: SlowServer) -> None:
    resolver = SystemResolver(max_lookups=2, lookup=slow)
    lookups = [asyncio.ensure_future(resolver("a.example", port)) for port in (1, 2, 3)]
    await slow.reached(2)
    assert not slow.looking.acquire(blocking=False)
    slow.end.set()
    assert len(await asyncio.gather(*lookups)) == 3


async def test_cancelled_lookup_counts_until_it_ends(slow: SlowServer) -> None:
    resolver = SystemResolver(max_lookups=1, lookup=slow)
    given_up = asyncio.ensure_future(resolver("a.example", 1))
    await slow.reached(1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    waiting = asyncio.ensure_future(resolver("b.example", 2))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    assert len(slow.threads) == 1
    slow.end.set()
    assert await waiting == ["b.example:2"]


async def test_lookup_threads_are_named_daemons(slow: SlowServer) -> None:
    lookup = asyncio.ensure_future(SystemResolver(lookup=slow)("a.example", 1))
    await slow.reached(1)
    assert [(thread.name, thread.daemon) for thread in slow.threads] == [("resolver", True)]
    slow.end.set()
    await lookup


def test_process_ends_during_a_lookup() -> None:
    program = """if True:
        import asyncio, threading
        from app.delivery.client import SystemResolver

        async def main():
            resolver = SystemResolver(lookup=lambda host, port: threading.Event().wait())
            try:
                async with asyncio.timeout(0.05):
                    await resolver("a.example", 1)
            except TimeoutError:
                print("given up")

        asyncio.run(main())
        """
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60, capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"given up\n", b"")


@pytest.mark.parametrize("failure", [socket.gaierror(socket.EAI_NONAME, "no"), UnicodeError("no"), KeyError("a bug")])
async def test_exception_of_a_lookup_reaches_the_caller(failure: Exception) -> None:
    def fail(_host: str, _port: int) -> Sequence[str]:
        raise failure

    resolver = SystemResolver(max_lookups=1, lookup=fail)
    for _ in range(2):  # the failed lookup is no longer counted
        with pytest.raises(type(failure)):
            await resolver("a.example", 1)


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("127.0.0.1", ["127.0.0.1"]), ("::1", ["::1"]), ("2130706433", ["127.0.0.1"]), ("0x7f.1", ["127.0.0.1"])],
)
async def test_system_resolves_addresses_in_every_spelling(host: str, addresses: list[str]) -> None:
    assert await SystemResolver()(host, 443) == addresses


def test_there_are_more_lookups_than_transfers() -> None:
    from app.jobs.pipeline import DOWNLOADS
    from app.jobs.system import DELIVERIES

    assert MAX_LOOKUPS >= 2 * (DELIVERIES + DOWNLOADS)
