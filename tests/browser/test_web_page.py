"""The web page in a browser: everything comes from this server, and the Content Security Policy holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.browser.docs_page import DocsPage
from tests.support.service import serving

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]


async def test_page_loads_from_this_server_without_errors(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        page = DocsPage(browser, running.address)

        def load() -> tuple[str, set[str], list[str]]:
            browser.get(running.address)  # browsers complain about the page's headers on http elsewhere
            return browser.find_element("id", "app").text, page.loaded(), page.console_errors()

        text, loaded, errors = await asyncio.to_thread(load)
    assert "Transcription service" in text
    assert any(url.endswith("/js/main.js") for url in loaded)
    assert [url for url in loaded if not url.startswith(f"{running.address}/")] == []
    assert errors == []
