"""Access control: API keys, rate limits, trusted proxies, allowed hosts and the webhook secret.

Each type has a ``parse`` classmethod that reads the text of a setting and raises ValueError if it can't. The error's
message is a predicate that starts with "must", so that the caller can put the setting's name in front of it. It never
quotes a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Self

from app.domain.errors import Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]+")
#: An entry with a quota has two colons.
_QUOTA: Final = re.compile(r"(?P<rest>[^:]*:[^:]*):(?P<seconds>[0-9]{1,9})")
#: Shorter keys can be guessed.
_SAFE_KEY_LENGTH: Final = 16

_SECONDS_PER_PERIOD: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_RATE: Final = re.compile(rf"\s*([1-9][0-9]{{0,8}})\s*/\s*({'|'.join(_SECONDS_PER_PERIOD)})\s*", re.IGNORECASE)

_ALLOWED_HOST: Final = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:/@?#\s]+)(:(?P<port>[0-9]{1,5}))?")
#: RFC 1035, section 2.3.4: labels of 63 octets, names of 255 on the wire, which are 253 characters.
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")

_IPV4_FORM: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105  a prefix, not a secret
#: Standard Webhooks asks for 24 to 64 bytes; 16 have always been accepted here.
_MIN_SECRET_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One API key, of which only the SHA-256 digest is kept.

    ``name`` appears in logs. ``is_short`` is true if the key is short enough to be guessed. ``quota_seconds`` of audio
    can be transcribed with it in a day; None means no limit.
    """

    name: str
    digest: bytes = field(repr=False)
    is_short: bool = False
    quota_seconds: int | None = None

    @property
    def is_named(self) -> bool:
        """True if the settings give the key a name, which is not its position then."""
        return not self.name.startswith("#")

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the digest, which jobs keep as their owner."""
        return self.digest.hex()[:16]


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys that guard a resource. Without any, the resource is open to everyone."""

    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``key``, ``name:key`` or ``name:key:seconds`` entries separated by commas.

        Raises:
            ValueError: an entry is malformed, or a key or a name occurs twice.
        """
        entries = [entry.strip() for entry in text.split(",") if entry.strip()]
        keys = tuple(_parse_key(entry, position) for position, entry in enumerate(entries, 1))
        if len({key.digest for key in keys}) < len(keys):
            raise ValueError("must list each key once")
        if len({key.name for key in keys}) < len(keys):
            raise ValueError("must list each name once")
        return cls(keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def authenticate(self, authorization: str, *, setting: str) -> ApiKey:
        """Return the key in the ``Authorization`` header of a request. Takes the same time for every key.

        The key can also be the password of the scheme ``Basic``, or its user if that has none: programs that can only
        be given a URL send ``http://any:KEY@host`` and ``http://KEY@host`` like this.

        Raises:
            Unauthorized: there is no key, or it is wrong. The message names ``setting``.
        """
        key = _sent_key(authorization)
        digest = _digest(key)
        match = None
        for candidate in self.keys:
            if hmac.compare_digest(candidate.digest, digest):
                match = candidate
        if match is None:
            problem = "The API key is wrong" if key else "There is no API key"
            raise Unauthorized(
                f"{problem}: send the header 'Authorization: Bearer KEY' with one of the keys in {setting}."
            )
        return match


def _sent_key(authorization: str) -> str:
    """Return the key of an ``Authorization`` header, or an empty string if it has another scheme or is malformed."""
    scheme, _, credentials = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic":
            with suppress(ValueError):
                user, _, password = base64.b64decode(credentials.strip(), validate=True).decode().rpartition(":")
                return password or user
    return ""


def _parse_key(entry: str, position: int) -> ApiKey:
    quota = _QUOTA.fullmatch(entry)
    name, colon, key = (entry if quota is None else quota["rest"]).rpartition(":")
    if colon and not _KEY_NAME.fullmatch(name):
        raise ValueError(
            "must be key, name:key or name:key:seconds entries separated by commas; a name has letters, digits, '.', "
            "'_' and '-', a key has no colon, and the seconds of audio a day are a whole number"
        )
    if not _KEY.fullmatch(key):
        raise ValueError("must be keys of printable ASCII characters without spaces, separated by commas")
    return ApiKey(
        name or f"#{position}",
        _digest(key),
        is_short=len(key) < _SAFE_KEY_LENGTH,
        quota_seconds=None if quota is None else int(quota["seconds"]),
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


@dataclass(frozen=True, slots=True)
class Rate:
    """At most this many requests in this many seconds."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a rate such as ``600/minute``.

        Raises:
            ValueError: it is not a rate.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(
                "must be a number of requests per second, minute, hour or day, such as 600/minute; empty means no limit"
            )
        return cls(int(match[1]), _SECONDS_PER_PERIOD[match[2].lower()])

    def __str__(self) -> str:
        return f"{self.requests} requests in {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Addresses and networks whose ``X-Forwarded-For`` header is trusted."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse addresses and networks separated by commas; ``*`` stands for all of them.

        Raises:
            ValueError: an entry is neither an address nor a network.
        """
        if text.strip() == "*":
            text = "0.0.0.0/0,::/0"
        try:
            return cls(tuple(ip_network(entry.strip()) for entry in text.split(",") if entry.strip()))
        except ValueError as exc:
            raise ValueError(f"must be addresses or networks such as 10.0.0.0/8, separated by commas ({exc})") from exc

    def covers(self, address: str) -> bool:
        """Return whether ``address`` is trusted. IPv4 addresses mapped to IPv6 are treated as IPv4."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)

    def __str__(self) -> str:
        return ",".join(map(str, self.networks))


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Hosts that may have private addresses and use plain http. An entry without a port covers every port."""

    entries: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host`` or ``host:port`` entries separated by commas. An IPv6 address with a port needs brackets.

        Raises:
            ValueError: an entry is malformed. The message quotes it.
        """
        return cls(frozenset(_parse_host(entry.strip()) for entry in text.split(",") if entry.strip()))

    def covers(self, host: str, port: int) -> bool:
        """Return whether ``host`` (a name or an address, in any case) is allowed at ``port``."""
        name = comparable_host(host)
        return (name, None) in self.entries or (name, port) in self.entries


def _parse_host(entry: str) -> tuple[str, int | None]:
    with suppress(ValueError):
        return str(ip_address(entry)), None
    match = _ALLOWED_HOST.fullmatch(entry)
    if match is None:
        raise _malformed_host(entry)
    host = _ascii_host(match["host"])
    if host is None:
        raise _malformed_host(entry)
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"must have ports from 1 to 65535 ({entry!r} does not)")
    return comparable_host(host), port


def _malformed_host(entry: str) -> ValueError:
    if not entry.isascii():
        return ValueError(f"must be host names and addresses (write {entry!r} in its xn-- form)")
    return ValueError(
        "must be host or host:port entries separated by commas, such as minio.local, 10.0.0.5:9000 or [fd00::5]:9000 "
        f"({entry!r} is neither)"
    )


def _ascii_host(host: str) -> str | None:
    """Return ``host`` in lower-case ASCII, or None if it is neither a name nor an address.

    International names are encoded with Python's IDNA 2003 codec. Names that IDNA 2008 encodes differently, such as
    those with ``ß``, are rejected: they must be written in their ``xn--`` form.
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
    if _IPV4_FORM.fullmatch(name):
        with suppress(ValueError):
            return str(ip_address(name))
        return None
    return name if is_name_or_address(name) else None


def is_name_or_address(host: str) -> bool:
    """Return whether ``host``, in lower-case ASCII, has the form of a host name or an address."""
    return ":" in host or _HOST_NAME.fullmatch(host) is not None


def comparable_host(host: str) -> str:
    """Return ``host`` in lower case, without a trailing dot, and with an address in its canonical form."""
    name = host.lower().rstrip(".")
    with suppress(ValueError):
        return str(ip_address(name))
    return name


def is_loopback(host: str) -> bool:
    """Return whether a service that listens on ``host`` can only be reached from this machine."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """The key that signs webhook events. It is excluded from ``repr``."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``whsec_<base64>``.

        Raises:
            ValueError: the prefix is missing, the rest is not base64, or the key is too short.
        """
        text = text.strip()
        try:
            key = base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not text.startswith(_SECRET_PREFIX) or len(key) < _MIN_SECRET_BYTES:
            raise ValueError(
                f"must be {_SECRET_PREFIX} followed by the base64 of at least {_MIN_SECRET_BYTES} random bytes; create "
                f"one with printf '{_SECRET_PREFIX}%s' \"$(head -c 32 /dev/urandom | base64 -w0)\""
            )
        return cls(key)

    def signature(self, event_id: str, timestamp: int, body: bytes) -> str:
        """Return the ``webhook-signature`` header of an event; ``timestamp`` is in Unix seconds."""
        signed = hmac.digest(self.key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
        return f"v1,{base64.b64encode(signed).decode()}"
