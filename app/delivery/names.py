"""What the host of a URL is, told from its text alone: a name, an address, or neither."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from app.delivery.addresses import is_public

#: RFC 1035, section 2.3.4: labels of 63 octets, names of 255 on the wire, which are 253 characters.
_NAME: Final = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
#: What resolvers read as a part of an IPv4 address: decimal, octal or hexadecimal.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: Top of the names that no public server may have. RFC 6761: localhost (its ``test`` and ``invalid`` lead nowhere by
#: themselves); RFC 6762: local; RFC 7686: onion; RFC 8375: home.arpa; RFC 9476: alt; ICANN's resolution
#: 2024.07.29.06: internal, which Google's metadata service is under.
_NEVER_PUBLIC: Final = ("localhost", "local", "internal", "home.arpa", "onion", "alt")


def is_name_or_address(host: str) -> bool:
    """Whether ``host``, in lower case and ASCII, can be a name or an address at all."""
    return ":" in host or _NAME.fullmatch(host) is not None


def comparable(host: str) -> str:
    """``host`` as it is compared: in lower case, without a dot at its end, addresses in their usual form."""
    name = host.lower().rstrip(".")
    with suppress(ValueError):
        return str(ip_address(name))
    return name


def is_known_private(host: str) -> bool:
    """Whether no resolver is needed to know that ``host`` is not public."""
    name = comparable(host)
    if any(name == top or name.endswith(f".{top}") for top in _NEVER_PUBLIC):
        return True
    address = _address(name)
    return address is not None and not is_public(address)


def is_oddly_written_address(host: str) -> bool:
    """Whether ``host`` ends in a number without being an IPv4 address of four decimal ones, as ``8.8.2056.`` does.

    No name does so (RFC 3696, section 2), and who reads such an address may read another one than we do.
    """
    if ":" in host or not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return False
    return comparable(host) != host or _canonical(host) is None


def _address(name: str) -> str | None:
    # Resolvers also read "127.1", "0x7f000001" and "2130706433" as addresses.
    canonical = _canonical(name)
    if canonical is None:
        with suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(name))
    return canonical


def _canonical(name: str) -> str | None:
    with suppress(ValueError):
        return str(ip_address(name))
    return None
