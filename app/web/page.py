"""The routes of the web page: ``/`` and its assets, under a strict Content Security Policy.

The assets are package data. They are served at ``/ui/<digest>/``, where the digest changes with any of them, so that
browsers keep them for good and never mix two versions. All URLs are relative, so that the page works behind a proxy
that adds a prefix.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath
from posixpath import normpath
from string import Template
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from app import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

_INDEX: Final = "index.html"
_MAIN_MODULE: Final = "js/main.js"
#: The modules of the views, by the names of their variables in the template of the page.
_VIEWS: Final = {"home": "js/home/view.js", "job": "js/reading/view.js"}
_IMPORT: Final = re.compile(r'^import [^;]*?"(\.{1,2}/[^"]+)";$', re.MULTILINE)
#: Files with other suffixes are not served.
_MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
#: Comments on their own lines, and types before a cast: together a third of what would be sent.
_COMMENT: Final = re.compile(
    r"^[ \t]*(?:/\*(?:[^*]|\*(?!/))*\*/[ \t]*|//.*)\n|/\*\* @type (?:[^*]|\*(?!/))*\*/ ", re.MULTILINE
)
#: Margins of lines, and empty lines. No string of a module or style sheet goes over several lines.
_MARGIN: Final = re.compile(r"^\s+", re.MULTILINE)
_DIGEST_LENGTH: Final = 16
#: ``gzip`` in the header Accept-Encoding, unless its weight is 0.
_ACCEPTS_GZIP: Final = re.compile(r"(?:^|[\s,])gzip(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))(?=[\s,;]|$)", re.IGNORECASE)
#: Everything comes from this server, nothing can be injected, and no other page can frame or open this one.
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self' blob:; manifest-src 'self'; worker-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FOR_GOOD: Final = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, also compressed with gzip."""

    media_type: str
    content: bytes
    compressed: bytes

    @classmethod
    def of(cls, name: str, content: bytes) -> Asset:
        return cls(_MEDIA_TYPES[PurePosixPath(name).suffix], content, gzip.compress(content, mtime=0))

    def response(self, request: Request, *, cache_control: str) -> Response:
        """Return the response to a GET or HEAD request: the file, or 304 if the client has it already."""
        is_compressed = _ACCEPTS_GZIP.search(request.headers.get("accept-encoding", "")) is not None
        content = self.compressed if is_compressed else self.content
        etag = f'"{_digest(content)}"'
        headers = {**_SECURITY_HEADERS, "Cache-Control": cache_control, "ETag": etag, "Vary": "Accept-Encoding"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if is_compressed:
            headers["Content-Encoding"] = "gzip"
        return Response(content, media_type=self.media_type, headers=headers)


@router.api_route("/", methods=["GET", "HEAD"])
async def get_page(request: Request) -> Response:
    return _PAGE.response(request, cache_control="no-cache")


@router.api_route("/ui/{digest}/{path:path}", methods=["GET", "HEAD"])
async def get_asset(request: Request, digest: str, path: str) -> Response:
    asset = _ASSETS.get(path) if digest == _ASSETS_DIGEST else None
    if asset is None:
        raise HTTPException(404)
    return asset.response(request, cache_control=_FOR_GOOD)


def _read_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the path below ``folder`` and the content of each file, in a fixed order."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _read_files(entry, f"{prefix}{entry.name}/")
        elif PurePosixPath(entry.name).suffix in {".css", ".js"}:
            text = _COMMENT.sub("", entry.read_text(encoding="utf-8"))
            yield f"{prefix}{entry.name}", _MARGIN.sub("", text).encode()
        elif PurePosixPath(entry.name).suffix in _MEDIA_TYPES:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


def _page(template: str, assets: Mapping[str, bytes], folder: str) -> bytes:
    """Return the page.

    In its template, ``$assets`` is the assets' folder, ``$preload`` loads the modules that every view needs, and
    ``$home`` and ``$job`` are the URLs of the modules that a view needs besides. ``$version`` is that of the service.
    """
    first = _imported_modules(assets, _MAIN_MODULE)
    preload = "\n".join(f'<link rel="modulepreload" href="{folder}/{name}">' for name in sorted(first))
    views = {
        view: " ".join(f"{folder}/{name}" for name in sorted(_imported_modules(assets, module) - first))
        for view, module in _VIEWS.items()
    }
    return Template(template).substitute(assets=folder, preload=preload, version=__version__, **views).encode()


def _imported_modules(assets: Mapping[str, bytes], name: str) -> set[str]:
    """Return a module and those that it needs to start. What it imports later, with ``import()``, is left out."""
    modules, found = set[str](), {name}
    while found:
        module = found.pop()
        modules.add(module)
        imports = _IMPORT.findall(assets[module].decode())
        found |= {normpath(f"{PurePosixPath(module).parent}/{path}") for path in imports} - modules
    return modules


# Read once and at import: an event loop runs while requests are served.
_FILES: Final = dict(_read_files(files("app.web").joinpath("assets")))
_TEMPLATE: Final = _FILES.pop(_INDEX).decode()
_ASSETS_DIGEST: Final = _digest(repr(_FILES).encode())
_ASSETS: Final[Mapping[str, Asset]] = MappingProxyType(
    {name: Asset.of(name, content) for name, content in _FILES.items()}
)
_PAGE: Final = Asset.of(_INDEX, _page(_TEMPLATE, _FILES, f"ui/{_ASSETS_DIGEST}"))
