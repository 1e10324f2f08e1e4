"""The web page at ``/`` and its assets: headers, caching, compression, and the setting that removes them."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.service import Running, serving

if TYPE_CHECKING:
    from pathlib import Path

    from app.transcription.whisper import WhisperModel

pytestmark = pytest.mark.anyio

#: The content of the page comes from this server alone, and no script can make more of it.
POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self' blob:",
    "manifest-src": "'self'",
    "worker-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
_REFERENCE: Final = re.compile(r'(?:href|src)="(ui/[^"]+)"')


@pytest.fixture
def running(shared: Running) -> Running:
    """The service of this module, because no test creates a job."""
    return shared


async def references(running: Running) -> list[str]:
    """Return the relative URLs of the assets that the page names."""
    return _REFERENCE.findall((await running.client.get("/")).text)


async def test_page_has_every_security_header(running: Running) -> None:
    page = await running.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    directives = (directive.strip().partition(" ") for directive in page.headers["content-security-policy"].split(";"))
    assert {name: value for name, _, value in directives} == POLICY
    assert page.headers["permissions-policy"] == "microphone=(self), camera=(), geolocation=()"
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-cache"


async def test_page_has_no_inline_script_or_style(running: Running) -> None:
    text = (await running.client.get("/")).text
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", text) == []
    assert re.findall(r"<style|\s(?:style|on\w+)=", text) == []


async def test_named_assets_exist_and_are_kept_for_good(running: Running) -> None:
    urls = await references(running)
    assert any(url.endswith("/js/main.js") for url in urls)
    for url in set(urls):
        asset = await running.client.get(f"/{url}")
        assert asset.status_code == 200, url
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert not asset.headers["content-type"].startswith("text/html")


async def test_page_has_the_version_of_the_service(running: Running) -> None:
    version = (await running.client.get("/v1/server")).json()["version"]
    assert f'<body data-version="{version}">' in (await running.client.get("/")).text


async def test_modules_and_styles_are_sent_without_comments_and_margins(running: Running) -> None:
    sources = [url for url in await references(running) if url.endswith((".js", ".css"))]
    assert sources
    for url in sources:
        text = (await running.client.get(f"/{url}")).text
        assert "/**" not in text, url
        assert not re.search(r"^(?:\s|//|/\*)", text, re.MULTILINE), url


async def test_modules_that_the_page_starts_with_are_preloaded(running: Running) -> None:
    text = (await running.client.get("/")).text
    preloaded = re.findall(r'<link rel="modulepreload" href="([^"]+)">', text)
    for url in preloaded:
        module = (await running.client.get(f"/{url}")).text
        folder = url.rpartition("/")[0]
        imported = re.findall(r'^(?:import|export)\b[^"]*"(\.[^"]+)"', module, re.MULTILINE)
        assert {_resolved(folder, path) for path in imported} <= set(preloaded), url
    assert not any(url.endswith("/dialogs.js") for url in preloaded), "loaded when a dialog is opened"
    assert not any("/reading/" in url for url in preloaded), "loaded when a job is opened"
    assert re.findall(r'<script type="module" src="([^"]+)">', text) == [
        url for url in preloaded if url.endswith("/main.js")
    ]


@pytest.mark.parametrize(("view", "main"), [("home", "/js/home/view.js"), ("job", "/js/reading/view.js")])
async def test_page_names_what_a_view_needs_besides(running: Running, view: str, main: str) -> None:
    text = (await running.client.get("/")).text
    preloaded = set(re.findall(r'<link rel="modulepreload" href="([^"]+)">', text))
    (names,) = re.findall(rf'data-{view}="([^"]+)"', text)
    urls = set(names.split(" "))
    assert any(url.endswith(main) for url in urls)
    assert any(url.endswith(".css") for url in urls)
    for url in urls:
        module = (await running.client.get(f"/{url}")).raise_for_status().text
        imported = re.findall(r'^import\b[^"]*"(\.[^"]+)"', module, re.MULTILINE)
        assert {_resolved(url.rpartition("/")[0], path) for path in imported} <= urls | preloaded, url
    assert not urls & preloaded


def _resolved(folder: str, path: str) -> str:
    parts = folder.split("/")
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


@pytest.mark.parametrize("path", ["style.css", "js/main.js"])
async def test_asset_is_compressed_for_those_who_accept_it(running: Running, path: str) -> None:
    (url,) = {url for url in await references(running) if url.endswith(f"/{path}")}
    plain = await running.client.get(f"/{url}", headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in plain.headers
    async with running.client.stream("GET", f"/{url}", headers={"Accept-Encoding": "br, gzip"}) as compressed:
        assert compressed.headers["content-encoding"] == "gzip"
        content = b"".join([chunk async for chunk in compressed.aiter_raw()])
    assert gzip.decompress(content) == plain.content
    assert compressed.headers["etag"] != plain.headers["etag"]
    assert {response.headers["vary"] for response in (plain, compressed)} == {"Accept-Encoding"}


async def test_unchanged_page_and_asset_are_not_sent_again(running: Running) -> None:
    for url in ("/", f"/{(await references(running))[0]}"):
        first = await running.client.get(url)
        again = await running.client.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        other = await running.client.get(url, headers={"If-None-Match": '"0123456789abcdef"'})
        assert (other.status_code, other.content) == (200, first.content)


async def test_head_has_the_headers_of_get_and_no_body(running: Running) -> None:
    for url in ("/", f"/{(await references(running))[0]}"):
        head, get = await running.client.head(url), await running.client.get(url)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "cache-control"):
            assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    "path", ["js/nothing.js", "index.html", "", "js", "../page.py", "..%2fpage.py", "js/%2e%2e/%2e%2e/page.py"]
)
async def test_missing_asset_is_404_and_no_page(running: Running, path: str) -> None:
    folder = "/".join((await references(running))[0].split("/")[:2])
    missing = await running.client.get(f"/{folder}/{path}")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/json"
    assert "error" in missing.json()


async def test_asset_of_another_version_is_404(running: Running) -> None:
    url = (await references(running))[0]
    assert (await running.client.get(f"/ui/0123456789abcdef/{url.split('/', 2)[2]}")).status_code == 404


async def test_page_needs_no_key_but_the_api_does(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, api_keys="sk-test") as running:
        assert (await running.client.get("/")).status_code == 200
        for url in await references(running):
            assert (await running.client.get(f"/{url}")).status_code == 200
        assert (await running.client.get("/v1/jobs")).status_code == 401


async def test_page_can_be_switched_off(tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model, web_page="false") as running:
        for path in ("/", "/ui/x/style.css"):
            missing = await running.client.get(path)
            assert missing.status_code == 404
            assert missing.json()["error"]["message"] == f"GET {path} does not exist: see /docs for all routes."
        assert (await running.client.get("/docs")).status_code == 200
