"""Which URLs a client may name, told from their text alone.

What a host name stands for is judged when it is dialled: see :mod:`app.delivery.client`.
"""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import httpx

from app.delivery.addresses import is_public
from app.domain.access import AllowedHosts, comparable_host, is_name_or_address
from app.domain.errors import RefusedUrl

#: URLs presigned with a session's token have 2,000 to 4,000 characters.
LONGEST_URL: Final = 8192

_JSON_ESCAPE: Final = re.compile(r"\\u00([2-7][0-9a-fA-F])")
#: Space and control characters, of ASCII and beyond, and the backslash, which others read as a slash.
_FORBIDDEN: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
#: RFC 3986, appendix B, as far as httpx reads it too.
_AUTHORITY: Final = re.compile(r"[^:/?#]+://(?P<authority>[^/?#]*)")
_HOST_AND_PORT: Final = re.compile(r"(\[[^\[\]]*\]|[^:]*)(:[0-9]*)?")
_SETTING: Final = "URL_ALLOWED_HOSTS"
_NO_PORT: Final = "has a port that does not exist: use 1 to 65535, or leave it out."
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ENCODED_QUERY: Final = re.compile("%(?:25)*(?:3f|23)", re.IGNORECASE)


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
        problem = self.problem(cleaned)
        if problem is not None:
            raise RefusedUrl(f"{param} {problem}", param=param)
        return cleaned

    def problem(self, url: str) -> str | None:
        """What is wrong with a cleaned URL, as the rest of a sentence that begins with its name; None if nothing."""
        return form_problem(url) or self._host_problem(httpx.URL(url))

    def _host_problem(self, parsed: httpx.URL) -> str | None:
        host = _host(parsed)
        port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
        if not 1 <= port <= 65535:
            return _NO_PORT
        if self.allowed.covers(host, port):
            return None
        if is_known_private(host):
            return (
                f"names {host}, which is not a public address: use a public one, or have"
                f" {_netloc(host, port)} added to the server's {_SETTING}."
            )
        if is_oddly_written_address(host):
            return f"has the host {host}, which is no name: write an IPv4 address as four decimal numbers."
        if parsed.scheme != "https":
            return (
                f"uses plain http: only https is allowed, except for hosts in the server's {_SETTING}"
                f" (here: {_netloc(host, port)})."
            )
        return None


def form_problem(url: str) -> str | None:
    """What is wrong with a URL whatever its host, as :meth:`UrlRules.problem` says it."""
    if not url:
        return "is empty: give a URL that begins with https://."
    if has_forbidden_character(url):
        return (
            "has a space, a control character or a backslash in it, as no URL has: percent-encode it, or leave it out."
        )
    parsed = _parse(url)
    if len(url) > LONGEST_URL or (parsed is not None and len(str(parsed)) > LONGEST_URL):
        return f"is longer than {LONGEST_URL} characters: sign a shorter one."
    if parsed is None or not parsed.scheme:
        return "is not a URL: give a complete one that begins with https://."
    if parsed.scheme not in _DEFAULT_PORTS:
        return f"has the scheme {parsed.scheme[:20]}: only https is allowed."
    if not parsed.raw_host:
        return "has no host: give a complete URL, such as https://bucket.s3.amazonaws.com/key?…"
    if not _is_readable(parsed) or not is_name_or_address(_host(parsed)):
        return "has a host that is not a valid name: check the URL."
    return _authority_problem(url)


def has_forbidden_character(text: str) -> bool:
    """Whether space, a control character or a backslash is in it, which no URL has (RFC 3986, section 2)."""
    return _FORBIDDEN.search(text) is not None


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
    # A URL that was encoded once too often has its query in the path.
    path = _ENCODED_QUERY.split(parsed.raw_path.partition(b"?")[0].decode("ascii"), maxsplit=1)[0]
    return f"{parsed.scheme}://{netloc}{port}{path}"


def _authority_problem(url: str) -> str | None:
    # What httpx makes of it says less: it drops an empty user, and reads other scripts' digits as a port.
    match = _AUTHORITY.match(url)
    authority = "" if match is None else match["authority"]
    if "@" in authority:
        return "has a user or password in it: a presigned URL needs none, leave them out."
    return None if _HOST_AND_PORT.fullmatch(authority) else _NO_PORT


def _parse(url: str) -> httpx.URL | None:
    if len(url) > LONGEST_URL:
        return None
    # Besides InvalidURL, lone surrogates and some international names end in a UnicodeError.
    with suppress(httpx.InvalidURL, ValueError):
        return httpx.URL(url)
    return None


def _host(parsed: httpx.URL) -> str:
    # Not .host, which decodes international names and fails on wrong ones.
    return parsed.raw_host.decode("ascii")


def _is_readable(parsed: httpx.URL) -> bool:
    # httpx decodes some international names for each request, and fails on those that IDNA does not know.
    with suppress(UnicodeError):
        return bool(parsed.host)
    return False


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


#: What resolvers read as a part of an IPv4 address: decimal, octal or hexadecimal.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: Top of the names that no public server may have. RFC 6761: localhost (its ``test`` and ``invalid`` lead nowhere by
#: themselves); RFC 6762: local; RFC 7686: onion; RFC 8375: home.arpa; RFC 9476: alt; ICANN's resolution
#: 2024.07.29.06: internal, which Google's metadata service is under.
_NEVER_PUBLIC: Final = ("localhost", "local", "internal", "home.arpa", "onion", "alt")


def is_known_private(host: str) -> bool:
    """Whether no resolver is needed to know that ``host`` is not public."""
    name = comparable_host(host)
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
    return comparable_host(host) != host or _canonical(host) is None


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
