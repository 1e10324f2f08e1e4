"""Which URLs a client may name, told from their text alone.

What a host name stands for is judged when it is dialled: see :mod:`app.delivery.network`.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self

import httpx

from app.delivery.addresses import is_public
from app.domain.errors import RefusedUrl

_JSON_ESCAPE: Final = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
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
        name = _comparable(host)
        return (name, None) in self.entries or (name, port) in self.entries


@dataclass(frozen=True, slots=True)
class UrlRules:
    """https to public hosts; plain http and private addresses only where ``allowed`` says so."""

    allowed: AllowedHosts

    def check(self, url: str, *, param: str) -> str:
        """The URL as it will be used: without surrounding space, JSON's escapes decoded.

        Raises:
            RefusedUrl: with ``param``; its sentence quotes no query, user or password.
        """
        cleaned = cleaned_url(url)
        problem = self._problem(cleaned)
        if problem is not None:
            raise RefusedUrl(f"{param} {problem}", param=param)
        return cleaned

    def _problem(self, url: str) -> str | None:
        if not url:
            return "is empty: give a URL that begins with https://."
        parsed = _parse(url)
        if parsed is None or not parsed.scheme:
            return "is not a URL: give a complete one that begins with https://."
        if parsed.scheme not in _DEFAULT_PORTS:
            return f"has the scheme {parsed.scheme[:20]}: only https is allowed."
        if parsed.userinfo:
            return "has a user or password in it: a presigned URL needs none, leave them out."
        return self._host_problem(parsed)

    def _host_problem(self, parsed: httpx.URL) -> str | None:
        host = _host(parsed)
        port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
        if not host:
            return "has no host: give a complete URL, such as https://bucket.s3.amazonaws.com/key?…"
        if ":" not in host and not _HOST_NAME.fullmatch(host):
            return "has a host that is not a valid name: check the URL."
        if not 1 <= port <= 65535:
            return "has a port that does not exist: use 1 to 65535, or leave it out."
        if self.allowed.covers(host, port):
            return None
        if _is_known_private(host):
            return (
                f"names {host}, which is not a public address: use a public one, or have"
                f" {_netloc(host, port)} added to the server's {_SETTING}."
            )
        if parsed.scheme != "https":
            return (
                f"uses plain http: only https is allowed, except for hosts in the server's {_SETTING}"
                f" (here: {_netloc(host, port)})."
            )
        return None


def cleaned_url(url: str) -> str:
    r"""``url`` without surrounding space, and with JSON's ``\u0026`` and ``\/`` decoded."""
    return _JSON_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), url.strip()).replace("\\/", "/")


def redacted(url: str) -> str:
    """``scheme://host[:port]/path``, without query, fragment, user and password; never raises."""
    parsed = _parse(cleaned_url(url))
    if parsed is None or not parsed.scheme or not parsed.raw_host:
        return "(not a URL)"
    host = _host(parsed)
    netloc = f"[{host}]" if ":" in host else host
    port = "" if parsed.port is None else f":{parsed.port}"
    path = parsed.raw_path.partition(b"?")[0].decode("ascii")
    return f"{parsed.scheme}://{netloc}{port}{path}"


def _parse(url: str) -> httpx.URL | None:
    # Besides InvalidURL, lone surrogates and some international names end in a UnicodeError.
    with suppress(httpx.InvalidURL, ValueError):
        return httpx.URL(url)
    return None


def _host(parsed: httpx.URL) -> str:
    # Not .host, which decodes international names and fails on wrong ones.
    return parsed.raw_host.decode("ascii")


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_known_private(host: str) -> bool:
    name = _comparable(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _numeric_address(name)
    return address is not None and not is_public(address)


def _numeric_address(name: str) -> str | None:
    with suppress(ValueError):
        return str(ip_address(name))
    # Resolvers also read "127.1", "0x7f000001" and "2130706433" as addresses.
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(name))
    return None


def _comparable(host: str) -> str:
    name = host.lower().rstrip(".")
    with suppress(ValueError):
        return str(ip_address(name))
    return name


def _parse_entry(entry: str) -> tuple[str, int | None]:
    with suppress(ValueError):
        return str(ip_address(entry)), None
    match = re.fullmatch(r"(?P<host>\[[^\[\]]+\]|[^\[\]:/@?#\s]+)(:(?P<port>[0-9]{1,5}))?", entry)
    parsed = None if match is None else _parse(f"https://{match['host']}/")
    if match is None or parsed is None:
        raise ValueError(_entry_sentence(entry))
    host = _host(parsed)
    port = None if match["port"] is None else int(match["port"])
    if ":" not in host and not _HOST_NAME.fullmatch(host):
        raise ValueError(_entry_sentence(entry))
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"{_SETTING}: {entry!r} has a port that does not exist; use 1 to 65535.")
    return _comparable(host), port


def _entry_sentence(entry: str) -> str:
    return (
        f"{_SETTING}: {entry!r} is not a host or host:port; write for example"
        " minio.local, 10.0.0.5:9000 or [fd00::5]:9000, separated by commas."
    )
