"""Rules for the URLs that clients name, checked against their text alone.

The address of a host is checked when a connection is opened: see :mod:`app.delivery.client`.
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

#: URLs presigned with a session token have 2,000 to 4,000 characters.
_MAX_LENGTH: Final = 8192
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: Top-level names of hosts that are never public. RFC 6761: localhost (its ``test`` and ``invalid`` don't resolve);
#: RFC 6762: local; RFC 7686: onion; RFC 8375: home.arpa; RFC 9476: alt; ICANN's resolution 2024.07.29.06: internal,
#: which contains Google's metadata service.
_PRIVATE_DOMAINS: Final = ("localhost", "local", "internal", "home.arpa", "onion", "alt")
_INVALID_PORT: Final = "has an invalid port: use 1 to 65535, or leave it out."

_JSON_ESCAPE: Final = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_ENCODED_QUERY: Final = re.compile("%(?:25)*(?:3f|23)", re.IGNORECASE)
#: Space and control characters, of ASCII and beyond, and the backslash, which some parsers read as a slash.
_FORBIDDEN: Final = re.compile(r"[\s\x00-\x20\x7f-\x9f\\]")
#: RFC 3986, appendix B, as far as httpx follows it.
_AUTHORITY: Final = re.compile(r"[^:/?#]+://(?P<authority>[^/?#]*)(?P<target>[^#]*)")
_HOST_AND_PORT: Final = re.compile(r"(\[[^\[\]]*\]|[^:]*)(:[0-9]*)?")
#: A part of an IPv4 address as resolvers read it: decimal, octal or hexadecimal.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class UrlRules:
    """URLs must use https and name public hosts, except for the hosts in ``allowed``."""

    allowed: AllowedHosts

    def check(self, url: str, *, param: str) -> str:
        """Return ``url`` without surrounding space and with JSON escapes decoded.

        Raises:
            RefusedUrl: the rules refuse it. The message names ``param`` and quotes no query, user or password.
        """
        cleaned = _cleaned(url)
        problem = self.problem(cleaned)
        if problem is not None:
            raise RefusedUrl(f"{param} {problem}", param=param)
        return cleaned

    def problem(self, url: str) -> str | None:
        """Return the problem of a cleaned URL as a predicate, such as "is empty: …", or None."""
        return form_problem(url) or self._host_problem(httpx.URL(url))

    def _host_problem(self, url: httpx.URL) -> str | None:
        host = _host(url)
        port = _DEFAULT_PORTS[url.scheme] if url.port is None else url.port
        if not 1 <= port <= 65535:
            return _INVALID_PORT
        if self.allowed.covers(host, port):
            return None
        if _is_known_private(host):
            return (
                f"names {host}, which is not a public address: use a public host, or ask the operator to add"
                f" {_netloc(host, port)} to URL_ALLOWED_HOSTS."
            )
        if _is_unusual_address(host):
            return f"has the host {host}, which is not a valid name: write an IPv4 address as four decimal numbers."
        if url.scheme != "https":
            return (
                "uses plain http, which is only allowed for hosts in URL_ALLOWED_HOSTS: use https, or ask the operator"
                f" to add {_netloc(host, port)}."
            )
        return None


def form_problem(url: str) -> str | None:
    """Return the problem of a cleaned URL, apart from its host, in the form of :meth:`UrlRules.problem`."""
    if not url:
        return "is empty: send a URL that starts with https://."
    if has_forbidden_character(url):
        return "contains a space, a control character or a backslash: percent-encode it, or leave it out."
    parsed = _parse(url)
    if len(url) > _MAX_LENGTH or (parsed is not None and len(str(parsed)) > _MAX_LENGTH):
        return f"is longer than {_MAX_LENGTH} characters: sign a shorter URL."
    if parsed is None or not parsed.scheme:
        return "is not a URL: send a complete one that starts with https://."
    if parsed.scheme not in _DEFAULT_PORTS:
        return f"has the scheme {parsed.scheme[:20]}: only https is allowed."
    if not parsed.raw_host:
        return "has no host: send a complete URL, such as https://bucket.s3.amazonaws.com/key?…"
    if not _has_decodable_host(parsed) or not is_name_or_address(_host(parsed)):
        return "has a host that is not a valid name: check the URL."
    return _authority_problem(url)


def has_forbidden_character(text: str) -> bool:
    """Return whether ``text`` contains a space, a control character or a backslash (RFC 3986, section 2)."""
    return _FORBIDDEN.search(text) is not None


def sent_exactly(url: str) -> dict[str, bytes]:
    """Return httpx's extensions with which the path and the query of a URL are sent byte for byte.

    httpx removes the segments ``.`` and ``..`` of a path, which can be part of the key that was signed. It still
    encodes a URL that has characters beyond ASCII.
    """
    match = _AUTHORITY.match(url)
    if match is None or not match["target"].startswith("/") or not url.isascii() or has_forbidden_character(url):
        return {}
    return {"target": match["target"].encode()}


def redacted(url: str) -> str:
    """Return ``scheme://host[:port]/path``, without query, fragment, user and password. Accepts any text."""
    parsed = _parse(_cleaned(url))
    if parsed is None or not parsed.scheme or not parsed.raw_host:
        return "(not a URL)"
    host = _host(parsed)
    netloc = f"[{host}]" if ":" in host else host
    port = "" if parsed.port is None else f":{parsed.port}"
    # The path of a URL that was encoded twice contains its query.
    path = _ENCODED_QUERY.split(parsed.raw_path.partition(b"?")[0].decode("ascii"), maxsplit=1)[0]
    return f"{parsed.scheme}://{netloc}{port}{path}"


def _cleaned(url: str) -> str:
    r"""Return ``url`` without surrounding space, and with JSON's ``\u0026`` and ``\/`` decoded."""
    return _JSON_ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), url.strip()).replace("\\/", "/")


def _authority_problem(url: str) -> str | None:
    # httpx drops an empty user, and accepts digits of other scripts in a port.
    match = _AUTHORITY.match(url)
    authority = "" if match is None else match["authority"]
    if "@" in authority:
        return "has a user or password: leave it out, since presigned URLs need none."
    return None if _HOST_AND_PORT.fullmatch(authority) else _INVALID_PORT


def _parse(url: str) -> httpx.URL | None:
    if len(url) > _MAX_LENGTH:
        return None
    # Besides InvalidURL, lone surrogates and some international names raise UnicodeError.
    with suppress(httpx.InvalidURL, ValueError):
        return httpx.URL(url)
    return None


def _host(url: httpx.URL) -> str:
    # Not .host, which decodes international names and raises for malformed ones.
    return url.raw_host.decode("ascii")


def _has_decodable_host(url: httpx.URL) -> bool:
    # httpx decodes international names for each request, and raises for those that IDNA does not know.
    with suppress(UnicodeError):
        return bool(url.host)
    return False


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_known_private(host: str) -> bool:
    """Return whether ``host`` is known not to be public without resolving it."""
    name = comparable_host(host)
    if any(name == domain or name.endswith(f".{domain}") for domain in _PRIVATE_DOMAINS):
        return True
    address = _address(name)
    return address is not None and not is_public(address)


def _is_unusual_address(host: str) -> bool:
    """Return whether ``host`` ends in a number but is not an IPv4 address of four decimal numbers, as ``8.8.2056.``.

    No valid name ends in a number (RFC 3696, section 2), and resolvers disagree about such addresses.
    """
    if ":" in host or not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return False
    return comparable_host(host) != host or _canonical_address(host) is None


def _address(name: str) -> str | None:
    # Resolvers also read "127.1", "0x7f000001" and "2130706433" as addresses.
    canonical = _canonical_address(name)
    if canonical is None:
        with suppress(OSError):
            return socket.inet_ntoa(socket.inet_aton(name))
    return canonical


def _canonical_address(name: str) -> str | None:
    with suppress(ValueError):
        return str(ip_address(name))
    return None
