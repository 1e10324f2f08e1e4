"""A network of its own for a process, with a cable to this machine that can be pulled: packets vanish then.

Only root can make one, on Linux with iproute2.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Final, Self

_CLONE_NEWNET: Final = 0x40000000
_numbers: Final = count()


class NoNamespaces(Exception):
    """This machine can't have a network namespace."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with the address ``inside``; this machine has the address ``outside`` for it."""

    name: str
    inside: str
    outside: str

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "cable", "netns", self.name)
            _ip("addr", "add", f"{self.outside}/30", "dev", self._cable)
            self.join_cable()
            _ip("-n", self.name, "addr", "add", f"{self.inside}/30", "dev", "cable")
            for device in ("cable", "lo"):
                _ip("-n", self.name, "link", "set", device, "up")
        except NoNamespaces:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for thing in (("link", "del", self._cable), ("netns", "del", self.name)):
            with suppress(NoNamespaces):
                _ip(*thing)

    @property
    def _cable(self) -> str:
        return self.name

    def pull_cable(self) -> None:
        """Lose all packets from now on, in both directions. Both ends keep their connections."""
        _ip("link", "set", self._cable, "down")

    def join_cable(self) -> None:
        """Let packets through again."""
        _ip("link", "set", self._cable, "up")

    def enter(self) -> None:
        """Move this process, which has one thread, to the namespace."""
        file = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        assert ctypes.CDLL(None, use_errno=True).setns(file, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(file)


def new_namespace() -> Namespace:
    """Return a namespace with a name and addresses that no other process of the tests has."""
    number = os.getpid() * 8 + next(_numbers) % 8
    network = f"10.{200 + (number >> 14) % 50}.{(number >> 6) % 256}"
    host = number % 64 * 4
    return Namespace(f"cut{number}", inside=f"{network}.{host + 2}", outside=f"{network}.{host + 1}")


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)  # noqa: S607  # wherever it is
    except FileNotFoundError as exc:
        raise NoNamespaces("iproute2 is not installed") from exc
    except subprocess.CalledProcessError as exc:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {exc.stderr.strip()}") from exc
