"""``/docs``: the description of the API as a page. Its scripts come from this server: no internet is needed."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse

_ASSETS: Final = "/docs/assets"


def install(app: FastAPI) -> None:
    """Adds the page. The application is to be made without one of its own."""
    app.mount(_ASSETS, StaticFiles(directory=str(files("fastapi_swagger.resources")), check_dir=False))

    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: API",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )

    app.add_api_route("/docs", page, methods=["GET"], include_in_schema=False)
