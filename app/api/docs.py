"""``/docs``: the description of the API as a page. Its scripts come from this server: no internet is needed."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Final

from fastapi import HTTPException
from fastapi.responses import HTMLResponse, Response

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

_PIECE_BYTES: Final = 32 * 1024
#: The files of Swagger UI and their types.
_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
_CONTENTS: Final = {name: files("fastapi_swagger.resources").joinpath(name).read_bytes() for name in _ASSETS}
#: Addresses are relative, so that the page works behind a proxy that adds a prefix. Swagger UI would send every empty
#: field of a form unless a box under it is unticked: without the boxes, empty fields stay out.
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

#: The page takes everything from this server, and runs its own scripts only. Swagger UI writes styles and small
#: pictures into the page.
_POLICY: Final = Template(
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'sha256-$digest'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _InPieces(Response):
    """What is in memory for all, of which little is copied for each. Files that worker threads read for hundreds of
    clients leave the heap in pieces: it grew by 11 MB a second, to 600 MB."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = memoryview(self.body)
        for start in range(0, len(content), _PIECE_BYTES):
            await send({"type": "http.response.body", "body": content[start : start + _PIECE_BYTES], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _digest_of_script(content: str) -> str:
    """Of the one script that stands in the page, as Content Security Policy has it."""
    script = content.rpartition("<script>")[2].partition("</script>")[0]
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def install(app: FastAPI) -> None:
    """Adds the page. The application is to be made without one of its own."""
    content = _PAGE.substitute(title=escape(f"{app.title}: API"))

    policy = _POLICY.substitute(digest=_digest_of_script(content))

    async def page() -> HTMLResponse:
        return HTMLResponse(content, headers={"Content-Security-Policy": policy})

    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise HTTPException(404)
        return _InPieces(_CONTENTS[name], media_type=_ASSETS[name])

    app.add_api_route("/docs/assets/{name}", asset, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", page, methods=["GET"], include_in_schema=False)
