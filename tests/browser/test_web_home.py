"""The start view and the list of recordings in a browser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import pytest
from selenium.webdriver.common.keys import Keys

from tests.api.conftest import held
from tests.browser.docs_page import HOST
from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held

__all__ = ["held"]

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

HOSTILE_NAME: Final = f"<img src=x onerror=alert(1)>\u202egpj.exe{'a' * 300}"


async def visit(
    browser: Chrome, tmp_path: Path, model: WhisperModel, visitor: Callable[[WebPage], Any], **settings: Any
) -> Any:
    """Return what a visitor, who blocks, brings from the page of a service."""
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        return await WebPage(browser, running.address).show(visitor)


async def test_chosen_recordings_are_named_sent_with_enter_and_done(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[list[str], list[str]]:
        page.open()
        page.choose(samples / "hello.wav", samples / "numbers.mp3")
        page.wait(lambda: page.focused() == "Transcribe 2 recordings")
        name = page.all(".tray .name")[1]
        name.clear()
        name.send_keys("Grüße & <b>numbers</b>", Keys.ENTER)
        page.wait(lambda: [row for row in page.rows() if "English" in row][1:])
        return page.rows(), page.console_errors()

    rows, errors = await visit(browser, tmp_path, model, visitor)
    assert {row.split("|")[0] for row in rows} == {"Grüße & <b>numbers</b>", "hello.wav"}
    assert all("English · just now" in row for row in rows)
    assert errors == []


async def test_options_come_between_the_recordings_and_the_button(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[str, str, str]:
        page.open()
        page.choose(samples / "hello.wav")
        page.wait(lambda: page.focused() == "Transcribe")
        page.press(Keys.SHIFT + Keys.TAB)
        before_button = page.focused()
        page.script("document.querySelector('.tray .name').focus()")
        page.press(Keys.TAB, Keys.TAB)
        after_recordings = page.script("return document.activeElement.closest('section').className")
        page.one(".tray .name").click()
        page.drop("another.wav", "not audio")
        return before_button, after_recordings, page.script("return document.activeElement.ariaLabel")

    before_button, after_recordings, typing = await visit(browser, tmp_path, model, visitor)
    assert before_button == "More options"
    assert after_recordings == "options"
    assert typing == "Name"


async def test_single_recording_is_opened(browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path) -> None:
    def visitor(page: WebPage) -> str:
        page.open()
        page.choose(samples / "hello.wav")
        page.wait(lambda: page.focused() == "Transcribe")
        page.press(Keys.ENTER)
        page.wait(lambda: "#/jobs/" in page.driver.current_url)
        page.wait(lambda: page.focused() == "hello.wav")
        return page.driver.title

    assert (await visit(browser, tmp_path, model, visitor)).startswith("hello.wav")


async def test_hostile_file_name_is_shown_as_text(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    def visitor(page: WebPage) -> tuple[str, str, int, list[str]]:
        page.open()
        page.drop(HOSTILE_NAME, "not audio")
        page.drop("another.wav", "not audio either")
        staged = str(page.one(".tray .name").get_property("value"))
        page.press(Keys.ENTER)
        page.wait(lambda: [row for row in page.rows() if "Failed" in row][1:])
        return staged, max(page.rows(), key=len).split("|")[0], len(page.all("img[src=x]")), page.console_errors()

    staged, title, images, errors = await visit(browser, tmp_path, model, visitor)
    assert staged == title == HOSTILE_NAME.replace("\u202e", "")[:255]
    assert images == 0
    assert errors == []


async def test_file_that_is_too_large_is_not_sent(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[str, bool]:
        page.open()
        page.choose(samples / "hello.wav")
        problem = page.one(".tray .problem").text
        return problem, page.button("Transcribe").is_enabled()

    problem, can_send = await visit(browser, tmp_path, model, visitor, max_upload_bytes=1000)
    assert problem == "167 kB is more than the 1 kB that this server accepts."
    assert not can_send


async def test_refusal_is_shown_in_the_servers_words(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> str:
        page.open()
        page.choose(samples / "hello.wav")
        page.button("Transcribe").click()
        page.button("Send hello.wav again")
        return page.rows()[0]

    row = await visit(browser, tmp_path, model, visitor, spool_min_free_bytes=1 << 60)
    assert row.startswith("hello.wav|The server has no disk space left for this request: try again later")


async def test_full_queue_is_waited_for(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    def until_full(page: WebPage) -> str:
        page.open()
        page.choose(*[samples / f"{name}" for name in ("hello.wav", "numbers.mp3", "code.flac", "report.m4a")])
        page.button("Transcribe 4 recordings").click()
        return next(iter(page.wait(lambda: [row for row in page.rows() if "The queue is full" in row])))

    def until_done(page: WebPage) -> list[str]:
        return page.wait(lambda: [row for row in page.rows() if "English" in row][3:])

    async with serving(tmp_path / "data", lambda: model, max_queued_jobs=1, max_concurrent_requests=1) as running:
        page = WebPage(browser, running.address)
        row = await asyncio.to_thread(until_full, page)
        held.open.set()
        await page.show(until_done)
    assert "MAX_QUEUED_JOBS allows 1" in row
    assert "Trying again in" in row


async def test_wrong_key_is_refused_and_the_right_one_shows_jobs(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[str, str]:
        page.open()
        page.log_in("sk-wrong")
        problem = str(page.wait(lambda: page.one("#key-problem").text))
        page.log_in("sk-right")
        page.wait(lambda: [row for row in page.rows() if row.startswith("hello.wav")])
        return problem, page.script("return JSON.stringify([location.href, {...localStorage}, document.cookie])")

    async with serving(tmp_path / "data", lambda: model, api_keys="sk-right") as running:
        running.client.headers["Authorization"] = "Bearer sk-right"
        await running.submit(samples / "hello.wav", stored_output="true")
        problem, stored = await WebPage(browser, running.address).show(visitor)
    assert problem.startswith("The API key is missing or wrong: enter one")
    assert "sk-" not in stored


async def test_filters_search_and_arrow_keys_lead_through_the_list(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path
) -> None:
    def visitor(page: WebPage) -> dict[str, Any]:
        page.open()
        page.wait(lambda: len(page.rows()) == 3)
        seen: dict[str, Any] = {}
        page.button("Failed").click()
        seen["failed"] = page.rows()
        page.button("All").click()
        page.press("/")
        page.press("HEL")
        page.wait(lambda: len(page.rows()) == 1)
        seen["found"] = page.rows()
        page.press(*[Keys.BACKSPACE] * len("HEL"))
        page.press(Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB, Keys.ARROW_DOWN)
        seen["focused"] = page.focused()
        page.press(Keys.END)
        seen["last"] = page.focused()
        return seen

    async with serving(tmp_path / "data", lambda: model) as running:
        for file in ("hello.wav", "references.json", "numbers.mp3"):
            await running.finished(await running.submit(samples / file, stored_output="true"))
        seen = await WebPage(browser, running.address).show(visitor)
    assert [row.split("|")[0] for row in seen["failed"]] == ["references.json"]
    assert [row.split("|")[0] for row in seen["found"]] == ["hello.wav"]
    assert seen["focused"].startswith("references.json")
    assert seen["last"].startswith("hello.wav")


async def test_recording_with_the_microphone_is_sent(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    def visitor(page: WebPage) -> list[str]:
        page.open()
        page.button("Record").click()
        page.wait(lambda: page.one(".recorder .time").text != "0:00")
        page.button("Pause").click()
        assert page.one(".recording").text == "Paused"
        page.button("Continue").click()
        page.button("Stop and use").click()
        page.button("Transcribe").click()
        return page.wait(lambda: [row for row in page.rows() if "just now" in row])

    rows = await visit(browser, tmp_path, model, visitor)
    assert rows[0].startswith("Recording of ")
    assert "Failed" not in rows[0]


async def test_missing_microphone_is_explained(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    def visitor(page: WebPage) -> str:
        page = WebPage(page.driver, page.address.replace("127.0.0.1", HOST))  # plain http on another host
        page.open()
        page.button("Record").click()
        return str(page.wait(lambda: page.one("#alerts .toast").text))

    assert "Browsers allow the microphone on https:// pages" in await visit(browser, tmp_path, model, visitor)


async def test_theme_is_chosen_and_remembered(browser: Chrome, tmp_path: Path, model: WhisperModel) -> None:
    def visitor(page: WebPage) -> tuple[str, str, str]:
        page.open()
        page.button("Theme: automatic").click()
        page.button("Theme: light").click()
        page.button("Theme: dark")
        dark = str(page.script("return document.documentElement.dataset.theme"))
        background = str(page.script("return getComputedStyle(document.body).backgroundColor"))
        page.driver.refresh()
        page.button("Theme: dark")
        return dark, background, str(page.script("return getComputedStyle(document.body).backgroundColor"))

    theme, background, after_reload = await visit(browser, tmp_path, model, visitor)
    assert theme == "dark"
    assert background == after_reload == "rgb(21, 20, 18)"


@pytest.mark.parametrize(("width", "is_side_first"), [(1400, True), (390, False)])
async def test_focus_moves_as_the_page_is_read(
    browser: Chrome, tmp_path: Path, model: WhisperModel, width: int, *, is_side_first: bool
) -> None:
    """On small screens the list of recordings is below the form."""

    def visitor(page: WebPage) -> list[str]:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            page.open()
            page.button("Choose files")
            parts: list[str] = []
            while len(parts) < len({"side", "main"}):
                page.press(Keys.TAB)
                part = page.script("return document.activeElement.closest('#side, main')?.id")
                parts += [part] if part and part not in parts else []
            return parts
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    order = await visit(browser, tmp_path, model, visitor)
    assert order == (["side", "main"] if is_side_first else ["main", "side"])
