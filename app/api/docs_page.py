"""The page ``/docs``: Swagger UI, served without the internet and under a strict Content Security Policy."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_CHUNK_BYTES: Final = 32 * 1024
#: Swagger UI's files and their media types.
_MEDIA_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
#: The contents of the files, read once and at import: an event loop runs while requests are served.
_ASSETS: Final = {name: files("fastapi_swagger.resources").joinpath(name).read_bytes() for name in _MEDIA_TYPES}
#: The page. Its URLs are relative, so that it works behind a proxy that adds a prefix. The plugin removes the boxes
#: "Send empty value": unless they are unticked, Swagger UI sends every empty field of a form.
_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="docs/assets/favicon-32x32.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  validatorUrl: null,
  plugins: [() => ({ wrapComponents: { ParameterIncludeEmpty: () => () => null } })],
});
</script>
</body>
</html>
""")
#: Everything comes from this server, and only the page's own scripts run. Swagger UI adds styles and data: images.
_POLICY: Final = Template(
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'sha256-$digest'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def get_page(request: Request) -> HTMLResponse:
    content = _PAGE.substitute(title=escape(f"{request.app.title}: API"))
    return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY.substitute(digest=_script_hash(content))})


@router.get("/docs/assets/{name}")
async def get_asset(name: str) -> Response:
    if name not in _MEDIA_TYPES:
        raise HTTPException(404)
    return _ChunkedResponse(_ASSETS[name], media_type=_MEDIA_TYPES[name])


def _script_hash(page: str) -> str:
    """Return the hash of the page's inline script, as Content Security Policy spells it."""
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


class _ChunkedResponse(Response):
    """A response that shares its content between all clients and copies little of it for each.

    Reading the files in worker threads for each request made the heap grow by 11 MB a second under a flood, to 600 MB.
    """

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = memoryview(self.body)
        for start in range(0, len(content), _CHUNK_BYTES):
            await send({"type": "http.response.body", "body": content[start : start + _CHUNK_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
