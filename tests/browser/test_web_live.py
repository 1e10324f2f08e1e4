"""The live text of a recording in a browser: it appears while somebody speaks, and a recording never needs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

#: What is spoken into the microphone.
SENTENCES: Final = ("hello this is a test", "the job is complete now")
_FINAL: Final = "return [...document.querySelectorAll('.live .text:not(.unfinished)')].map((text) => text.textContent)"

#: Keeps the URL, the subprotocols and the first message of each WebSocket.
_KEEP_SOCKETS: Final = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols);
    this.kept = [url, protocols];
    window.sockets.push(this.kept);
  }
  send(text) {
    if (this.kept.length < 3) this.kept.push(text);
    super.send(text);
  }
};
"""
#: Makes the log small, and keeps what a screen reader would say of it.
_WATCH_LOG: Final = """
const log = document.querySelector(".live");
log.style.height = "50px";
log.scrollTop = log.scrollHeight;
window.spoken = [];
new MutationObserver((changes) => {
  for (const { target, addedNodes } of changes)
    for (const node of addedNodes.length ? addedNodes : [target]) {
      const element = node instanceof Element ? node : node.parentElement;
      if (element?.closest("[aria-live]")?.ariaLive !== "off") window.spoken.push(node.textContent);
    }
}).observe(log, { childList: true, characterData: true, subtree: true });
"""
_LOG: Final = "const log = document.querySelector('.live');"


def start(page: WebPage) -> None:
    page.open()
    page.button("Record").click()


def final_texts(page: WebPage) -> list[str]:
    """Return the final texts that are shown, in lower case and without punctuation."""
    return ["".join(c for c in text.lower() if c.isalpha() or c == " ") for text in page.script(_FINAL)]


def reason_for_no_text(page: WebPage) -> str:
    """Return why there is no live text, once the page says it."""
    note: str = page.wait(lambda: page.one(".live .note").text)
    return note


def stop(page: WebPage) -> None:
    """Send what was recorded."""
    page.wait(lambda: page.one(".recorder .time").text != "0:00")
    page.button("Stop and use").click()
    page.button("Transcribe").click()


def done(page: WebPage) -> list[str]:
    """Return the list of recordings once what was recorded is transcribed."""
    return page.wait(lambda: [row for row in page.rows() if "just now" in row])


async def visit(
    browser: Chrome, tmp_path: Path, model: WhisperModel, visitor: Callable[[WebPage], Any], **settings: Any
) -> Any:
    """Return what a visitor, who blocks, brings from the page of a service."""
    async with serving(tmp_path / "data", lambda: model, **settings) as running:
        return await WebPage(browser, running.address).show(visitor)


async def test_text_appears_while_somebody_speaks(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def visitor(page: WebPage) -> tuple[list[str], list[str], list[str]]:
        start(page)
        page.wait(lambda: set(final_texts(page)) & set(SENTENCES))
        while_recording = final_texts(page)
        page.button("Stop and use").click()
        page.wait(lambda: page.all(".tray .live .text"))
        page.wait(lambda: not page.all(".live .unfinished"))
        page.button("Transcribe").click()
        return while_recording, done(page), page.console_errors()

    texts, rows, errors = await visit(speaking_browser, tmp_path, model, visitor)
    assert set(texts) & set(SENTENCES)
    assert "Failed" not in rows[0]
    assert errors == []


async def test_text_goes_on_after_a_pause_and_in_the_next_session(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    """The pause ends the utterance. Sessions of this service last too short for a recording."""

    def visitor(page: WebPage) -> tuple[int, int, list[str]]:
        start(page)
        page.wait(lambda: page.all(".live .text"))
        page.button("Pause").click()
        page.wait(lambda: page.one(".recording").text == "Paused" and not page.all(".live .unfinished"))
        before = len(page.all(".live .text"))
        page.button("Continue").click()
        page.wait(lambda: len(final_texts(page)) > before + 1)
        notes = len(page.all(".live .note"))
        stop(page)
        return before, notes, done(page)

    before, notes, rows = await visit(speaking_browser, tmp_path, model, visitor, realtime_session_seconds=4)
    assert before > 0
    assert notes == 0
    assert "Failed" not in rows[0]


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"api_keys": "sk-right"}, "", "The API key is missing or wrong"),
        ({"api_keys": "sk-right"}, "sk-wrong", "The API key is missing or wrong"),
    ],
    ids=["no key", "wrong key"],
)
async def test_recording_goes_on_without_text(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel, settings: dict[str, Any], key: str, reason: str
) -> None:
    def visitor(page: WebPage) -> tuple[str, list[str]]:
        page.open()
        page.one("#key")
        page.script("document.querySelector('dialog').close(); sessionStorage.setItem('api-key', arguments[0])", key)
        page.button("Record").click()
        note = reason_for_no_text(page)
        stop(page)
        page.log_in("sk-right")
        return note, done(page)

    note, rows = await visit(speaking_browser, tmp_path, model, visitor, **settings)
    assert note.startswith(f"The recording goes on without live text. {reason}")
    assert "Failed" not in rows[0]


async def test_recording_goes_on_beside_as_many_sessions_as_are_allowed(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def visitor(page: WebPage) -> tuple[str, list[str]]:
        page.open()
        page.script("window.other = new WebSocket(`${origin.replace('http', 'ws')}/v1/realtime?intent=transcription`)")
        page.wait(lambda: page.script("return window.other.readyState === WebSocket.OPEN"))
        page.button("Record").click()
        note = reason_for_no_text(page)
        stop(page)
        return note, done(page)

    note, rows = await visit(speaking_browser, tmp_path, model, visitor, realtime_max_sessions=1)
    assert note.startswith(
        "The recording goes on without live text. The server runs as many live transcriptions as it allows"
    )
    assert "Failed" not in rows[0]


async def test_recorder_of_a_server_without_live_transcription_has_no_place_for_text(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def visitor(page: WebPage) -> tuple[bool, list[str]]:
        start(page)
        is_shown = page.one(".live").is_displayed()
        stop(page)
        return is_shown, done(page)

    is_shown, rows = await visit(speaking_browser, tmp_path, model, visitor, realtime_max_sessions=0)
    assert not is_shown
    assert "Failed" not in rows[0]


async def test_broken_session_leaves_its_text_and_the_recording(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def until_text(page: WebPage) -> None:
        start(page)
        page.wait(lambda: page.all(".live .text"))

    def until_sent(page: WebPage) -> tuple[str, int, list[str]]:
        note, texts = reason_for_no_text(page), len(page.all(".live .text"))
        stop(page)
        return note, texts, done(page)

    async with serving(tmp_path / "data", lambda: model) as running:
        page = WebPage(speaking_browser, running.address)
        await page.show(until_text)
        await running.service.sessions.drain()
        note, texts, rows = await page.show(until_sent)
    assert note == "The recording goes on without live text. The server is shutting down."
    assert texts > 0
    assert "Failed" not in rows[0]


async def test_key_opens_a_session_with_the_chosen_options(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    """The page itself never sends the key in a URL or as a subprotocol, only a secret in its place."""

    def visitor(page: WebPage) -> tuple[list[list[str]], list[str]]:
        page.open()
        page.log_in("sk-right")
        page.wait(lambda: not page.all("dialog"))
        page.script(_KEEP_SOCKETS)
        page.one("#language").send_keys("English")
        page.button("Record").click()
        page.wait(lambda: set(final_texts(page)) & set(SENTENCES))
        sockets = page.script("return window.sockets")
        page.button("Stop and use").click()
        return sockets, page.console_errors()

    async with serving(tmp_path / "data", lambda: model, api_keys="sk-right") as running:
        (socket,), errors = await WebPage(speaking_browser, running.address).show(visitor)
    url, protocols, update = socket
    assert url == f"{running.address.replace('http', 'ws')}/v1/realtime?intent=transcription"
    assert protocols[0] == "realtime"
    assert protocols[1].startswith("openai-insecure-api-key.ek_")
    assert json.loads(update)["session"]["audio"]["input"]["transcription"] == {"language": "en"}
    assert [error for error in errors if "401" not in error] == []  # before the key


async def test_text_is_added_for_screen_readers_once_and_scrolled_at_its_end_only(
    speaking_browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def visitor(page: WebPage) -> tuple[list[str], list[str], bool, int]:
        start(page)
        page.one(".live")
        page.script(_WATCH_LOG)
        page.wait(lambda: page.script(f"{_LOG} return log.scrollHeight > log.clientHeight + 20"))
        is_at_end = page.script(f"{_LOG} return log.scrollHeight - log.scrollTop - log.clientHeight < 16")
        page.script(f"{_LOG} log.scrollTop = 0")
        count = len(final_texts(page))
        page.wait(lambda: len(final_texts(page)) > count)
        spoken, shown = page.script(f"return [window.spoken, (() => {{ {_FINAL} }})()]")
        return spoken, shown, is_at_end, page.script(f"{_LOG} return log.scrollTop")

    spoken, shown, is_at_end, scrolled = await visit(speaking_browser, tmp_path, model, visitor)
    assert spoken == shown
    assert is_at_end
    assert scrolled == 0
