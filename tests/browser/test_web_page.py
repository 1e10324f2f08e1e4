"""The web page in a browser: everything comes from this server, and the Content Security Policy holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.docs_page import DocsPage
from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

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
