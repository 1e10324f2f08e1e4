"""The web page in a browser: everything comes from this server, and the Content Security Policy holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.docs_page import DocsPage
from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

#: What the page may need of files until a view is shown.
MOST_REQUESTS: Final = 18
MOST_BYTES: Final = 45_000

#: Files that were fetched, and their compressed sizes; the icon is used again from the cache.
_FILES: Final = """
return [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter(({ name, transferSize }) => transferSize && !new URL(name).pathname.startsWith("/v1/"))
  .map(({ name, encodedBodySize }) => [name, encodedBodySize])
"""

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]


async def test_page_loads_from_this_server_without_errors(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        resources = DocsPage(browser, running.address)

        def load(page: WebPage) -> tuple[str, set[str], list[str]]:
            page.open()  # browsers complain about the page's headers on http elsewhere
            return page.one("h1").text, resources.loaded(), page.console_errors()

        text, loaded, errors = await WebPage(browser, running.address).show(load)
    assert text == "Turn speech into text"
    assert any(url.endswith("/js/main.js") for url in loaded)
    assert [url for url in loaded if not url.startswith(f"{running.address}/")] == []
    assert errors == []


@pytest.mark.parametrize(
    ("path", "title"), [("", "Turn speech into text"), ("#/jobs/1", "This transcript can't be shown")]
)
async def test_view_needs_few_and_small_files(
    browser: Chrome, tmp_path: Path, model: WhisperModel, path: str, title: str
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:

        def load(page: WebPage) -> list[tuple[str, int]]:
            page.driver.get("about:blank")
            page.driver.get(f"{page.address}/{path}")
            assert page.one("h1").text == title
            return [(name, size) for name, size in page.script(_FILES)]

        files = await WebPage(browser, running.address).show(load)
    assert any(name.endswith("/js/main.js") for name, _ in files)
    assert all(size for _, size in files)
    assert len(files) <= MOST_REQUESTS
    assert sum(size for _, size in files) <= MOST_BYTES


async def test_visit_from_upload_to_playback_loads_nothing_from_elsewhere(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[set[str], list[str]]:
        page.open()
        page.choose(samples / "two_speakers_stereo.flac")
        page.button("Transcribe").click()
        page.button("Download")
        page.wait(lambda: page.script("return document.querySelector('video').readyState > 0"))
        page.button("Play").click()
        page.button("Pause").click()
        page.button("Keyboard shortcuts").click()
        page.one("dialog")
        return DocsPage(page.driver, page.address).loaded(), page.console_errors()

    async with serving(tmp_path / "data", lambda: model) as running:
        loaded, errors = await WebPage(browser, running.address).show(visitor)
    assert any(url.endswith("/js/reading/view.js") for url in loaded)
    own = (f"{running.address}/", f"blob:{running.address}/")
    assert [url for url in loaded if not url.startswith(own)] == []
    assert errors == []
