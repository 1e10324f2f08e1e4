"""Keys, secrets, rates, networks and hosts, as the settings name them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Self

from app.domain.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]+")
#: Shorter ones can be guessed.
_SAFE_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. ``name`` stands in logs; ``digest`` is the key's SHA-256, ``is_short`` says that it can be guessed."""

    name: str
    digest: bytes = field(repr=False)
    is_short: bool = False

    @property
    def fingerprint(self) -> str:
        """What jobs know their owner by."""
        return self.digest.hex()[:16]


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """All keys; without any whatever they guard is open."""

    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``key`` or ``name:key`` entries, separated by commas.

        Raises:
            ValueError: with a sentence that quotes no key.
        """
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        keys = tuple(_parse_key(entry, place) for place, entry in enumerate(entries, 1))
        for what, given in (("key", [key.digest for key in keys]), ("name", [key.name for key in keys])):
            if len(set(given)) < len(given):
                raise ValueError(f"must give each {what} once")
        return cls(keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def required(self, authorization: str, *, setting: str) -> ApiKey:
        """The key that a request brings in its header ``Authorization``. It takes as long for one as for the other.

        Raises:
            Unauthorized: none, or a wrong one; the sentence names ``setting``.
        """
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest) and scheme.lower() == "bearer":
                found = key
        if found is None:
            problem = "The API key is wrong" if given else "There is no API key"
            raise Unauthorized(
                f"{problem}: send the header 'Authorization: Bearer KEY' with one of the keys in {setting}."
            )
        return found


def _parse_key(entry: str, place: int) -> ApiKey:
    name, colon, key = entry.rpartition(":")
    if colon and not _KEY_NAME.fullmatch(name):
        raise ValueError(
            "must be keys, or name:key with a name of letters, digits, '.', '_' and '-', separated by commas; no key "
            "has a colon in it"
        )
    if not _KEY.fullmatch(key):
        raise ValueError("must be keys of printable ASCII characters without spaces, separated by commas")
    return ApiKey(name or f"#{place}", _digest(key), is_short=len(key) < _SAFE_LENGTH)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


_PERIODS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


_RATE: Final = re.compile(rf"\s*([1-9][0-9]{{0,8}})\s*/\s*({'|'.join(_PERIODS)})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``600/minute``.

        Raises:
            ValueError: it is none, with a sentence.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"must be a number of requests in a {', '.join(_PERIODS)}, such as 600/minute; empty is no limit"
            )
        return cls(int(match[1]), _PERIODS[match[2].lower()])

    def __str__(self) -> str:
        return f"{self.requests} requests in {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Addresses and networks whose ``X-Forwarded-For`` is believed."""

    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads addresses and networks, separated by commas; ``*`` is all.

        Raises:
            ValueError: an entry is neither, with a sentence.
        """
        if text.strip() == "*":
            text = "0.0.0.0/0,::/0"
        try:
            return cls(tuple(ipaddress.ip_network(entry.strip()) for entry in text.split(",") if entry.strip()))
        except ValueError as exc:
            raise ValueError(f"must be addresses or networks such as 10.0.0.0/8, separated by commas ({exc})") from exc

    def cover(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)

    def __str__(self) -> str:
        return ",".join(map(str, self.networks))


_SETTING: Final = "URL_ALLOWED_HOSTS"


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Hosts that may have private addresses and do without TLS; an entry without port means any port."""

    entries: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``host`` or ``host:port`` entries, separated by commas; IPv6 with a port in brackets.

        Raises:
            ValueError: an entry is neither, with a sentence naming it.
        """
        return cls(frozenset(_parse_entry(entry.strip()) for entry in text.split(",") if entry.strip()))

    def covers(self, host: str, port: int) -> bool:
        """Whether ``host`` (a name or an address, in any case) at ``port`` is allowed."""
        name = comparable(host)
        return (name, None) in self.entries or (name, port) in self.entries


def _parse_entry(entry: str) -> tuple[str, int | None]:
    with suppress(ValueError):
        return str(ip_address(entry)), None
    match = re.fullmatch(r"(?P<host>\[[^\[\]]+\]|[^\[\]:/@?#\s]+)(:(?P<port>[0-9]{1,5}))?", entry)
    host = None if match is None else _ascii_host(match["host"])
    if match is None or host is None:
        raise ValueError(_entry_sentence(entry))
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{_SETTING}: {entry!r} has a port that does not exist; use 1 to 65535.")
    return comparable(host), port


def _ascii_host(host: str) -> str | None:
    """Return ``host`` in lower-case ASCII, or None if it is neither a name nor an address.

    International names are encoded with Python's IDNA 2003 codec. Names that IDNA 2008 encodes differently, such as
    those with ``ß``, are refused: they must be written in their ``xn--`` form.
    """
    if host.startswith("["):
        with suppress(ValueError):
            return str(IPv6Address(host[1:-1]))
        return None
    name = host.lower()
    if not name.isascii():
        try:
            encoded = name.encode("idna")
            if encoded.decode("idna") != unicodedata.normalize("NFC", name):
                return None
        except UnicodeError:
            return None
        name = encoded.decode("ascii")
    return name if is_name_or_address(name) else None


def _entry_sentence(entry: str) -> str:
    return (
        f"{_SETTING}: {entry!r} is not a host or host:port; write for example"
        " minio.local, 10.0.0.5:9000 or [fd00::5]:9000, separated by commas."
    )


#: RFC 1035, section 2.3.4: labels of 63 octets, names of 255 on the wire, which are 253 characters.
_NAME: Final = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


def is_name_or_address(host: str) -> bool:
    """Whether ``host``, in lower case and ASCII, can be a name or an address at all."""
    return ":" in host or _NAME.fullmatch(host) is not None


def comparable(host: str) -> str:
    """``host`` as it is compared: in lower case, without a dot at its end, addresses in their usual form."""
    name = host.lower().rstrip(".")
    with suppress(ValueError):
        return str(ip_address(name))
    return name


_PREFIX: Final = "whsec_"


#: Standard Webhooks asks for 24 to 64 bytes; a few less have always been taken.
_LEAST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """The key that events are signed with. It is shown nowhere."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``whsec_<base64>``.

        Raises:
            ValueError: it is none, with a sentence that does not quote it.
        """
        text = text.strip()
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not text.startswith(_PREFIX) or len(key) < _LEAST_BYTES:
            raise ValueError(
                f"must be {_PREFIX} and the base64 of at least {_LEAST_BYTES} random bytes; make one with "
                f"printf '{_PREFIX}%s' \"$(head -c 32 /dev/urandom | base64 -w0)\""
            )
        return cls(key)

    def signature(self, event_id: str, timestamp: int, body: bytes) -> str:
        """What stands in ``webhook-signature``; ``timestamp`` is in Unix seconds."""
        signed = hmac.digest(self.key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
        return f"v1,{base64.b64encode(signed).decode()}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that listens on ``host``."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() == "localhost"
