"""The page and a real service that refuses, crashes, or has other tabs to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from tests.browser.reading_page import ReadingPage
from tests.faults.forked_program import forked_program
from tests.support.audio import encode
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="starts a browser and services")

TABS: Final = 7  # a browser has six connections to a server
HOSTILE_NAME: Final = f"<img src=x onerror=alert(1)>\u202egpj.exe{'W' * 300}.wav"
PHONE: Final = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
_OVERFLOW: Final = """
const widths = [document.documentElement, ...document.querySelectorAll(".scroller, main, dialog")];
return widths.filter((each) => each.scrollWidth > each.clientWidth).map((each) => each.outerHTML.slice(0, 80));
"""


@pytest.fixture
def tabs(browser: Chrome) -> Iterator[Chrome]:
    """The browser, whose tabs are closed afterwards except the first."""
    first = browser.current_window_handle
    yield browser
    for handle in browser.window_handles:
        if handle != first:
            browser.switch_to.window(handle)
            browser.close()
    browser.switch_to.window(first)
    browser.get("about:blank")


@pytest.fixture
def phone(browser: Chrome) -> Iterator[Chrome]:
    """The browser with the window of a phone."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")


@pytest.fixture
def long_recording(tmp_path: Path, samples: Path) -> Path:
    """Four minutes of speech, which the demo model transcribes in about five seconds."""
    pcm = (decode_audio(str(samples / "long.opus")) * 32767).astype(np.int16)
    return encode(tmp_path / "long.flac", np.tile(pcm, 3), container="flac", codec="flac")


def page_of(browser: Chrome, service: Program) -> ReadingPage:
    return ReadingPage(browser, str(service.client.base_url).rstrip("/"))


def stylesheets_apply(page: ReadingPage) -> bool:
    return bool(page.script("return getComputedStyle(document.querySelector('.scroller')).overflowY === 'auto'"))


def test_job_of_a_service_that_crashed_ends_in_the_open_page(
    browser: Chrome, tmp_path: Path, long_recording: Path
) -> None:
    settings = {"PORT": free_port(), "WHISPER_BATCH_SIZE": "1"}
    with forked_program(tmp_path, **settings) as service:
        service.until_ready()
        page = page_of(browser, service)
        page.open()
        page.choose(long_recording)
        page.button("Transcribe").click()
        page.wait(page.paragraphs)
        page.script("window.isTheSame = true")
        (job_id,) = service.jobs()
        service.kill()
        page.wait(lambda: "Connecting" in page.one(".state").text)
    with forked_program(tmp_path, **settings) as service:
        page.button("Download")  # once the job has ended
        document = service.client.get(f"/v1/jobs/{job_id}/result").json()
        shown, state = " ".join(page.paragraphs()), page.one(".state").text
        job, is_the_same = service.job(job_id), page.script("return window.isTheSame")
    assert job["attempts"] == 2
    assert shown == document["text"]
    assert state.startswith("Ready")
    assert is_the_same


def test_seven_tabs_show_the_same_job(tabs: Chrome, tmp_path: Path, samples: Path) -> None:
    with forked_program(tmp_path) as service:
        service.until_ready()
        page = page_of(tabs, service)
        page.open()
        for _ in range(TABS - 1):
            tabs.switch_to.new_window("tab")
            page.open()
        job_id = service.submit(samples / "hello.wav", stored_output="true")
        shown = []
        for handle in tabs.window_handles:
            tabs.switch_to.window(handle)
            shown.append(page.wait(lambda: [row for row in page.rows() if "English" in row]))
            page.script("location.hash = arguments[0]", f"#/jobs/{job_id}")
            page.wait(page.paragraphs)
    assert [len(rows) for rows in shown] == [1] * TABS


def test_second_tab_asks_for_the_key_and_shows_corrections_of_the_first(
    tabs: Chrome, tmp_path: Path, samples: Path
) -> None:
    with forked_program(tmp_path, API_KEYS="sk-right") as service:
        service.client.headers["Authorization"] = "Bearer sk-right"
        service.until_ready()
        job_id = service.submit(samples / "hello.wav", stored_output="true", keep_audio="true", word_timestamps="true")
        service.until(job_id, "completed")
        page = page_of(tabs, service)
        page.open()
        page.log_in("sk-right")
        page.wait(page.rows)
        first = tabs.current_window_handle
        tabs.switch_to.new_window("tab")
        tabs.get(f"{page.address}/#/jobs/{job_id}")
        page.log_in("sk-right")
        before = page.wait(page.text)
        second = tabs.current_window_handle
        tabs.switch_to.window(first)
        page.script("location.hash = arguments[0]", f"#/jobs/{job_id}")
        page.wait(page.paragraphs)
        word = before.split()[-1]
        page.edit()
        page.correct(word, "corrected")
        page.leave_editing()
        tabs.switch_to.window(second)
        after = page.wait(lambda: page.text() if page.text() != before else "")
    assert after == before.removesuffix(word) + "corrected"


def test_upload_above_a_limit_that_was_lowered_is_refused_in_the_servers_words(
    browser: Chrome, tmp_path: Path, samples: Path
) -> None:
    port = free_port()
    with forked_program(tmp_path, PORT=port) as service:
        service.until_ready()
        page = page_of(browser, service)
        page.open()
        page.choose(samples / "hello.wav")
        page.button("Transcribe")
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/server"]})  # the page keeps the old limit
    with forked_program(tmp_path, PORT=port, MAX_UPLOAD_BYTES="1000") as service:
        service.until_ready()
        page.button("Transcribe").click()
        page.button("Send hello.wav again")
        browser.execute_cdp_cmd("Network.disable", {})
        row = page.rows()[0]
        with (samples / "hello.wav").open("rb") as audio:
            refusal = service.client.post("/v1/audio/transcriptions", files={"file": audio})
    assert refusal.status_code == 413
    assert refusal.json()["error"]["message"] in row


def test_page_that_is_older_than_the_server_offers_to_reload(browser: Chrome, tmp_path: Path) -> None:
    port = free_port()
    with forked_program(tmp_path, PORT=port) as service:
        service.until_ready()
        page = page_of(browser, service)
        page.open()
        page.wait(lambda: page.one(".state").text.startswith("Ready"))
        version = page.script("return document.body.dataset.version")
        page.script("document.body.dataset.version = '0.0.1'")
    with forked_program(tmp_path, PORT=port, MAX_UPLOAD_BYTES="5000000") as service:
        service.until_ready()
        notice = page.wait(lambda: page.one("#toasts .toast").text)  # it fades in
        page.wait(lambda: page.one(".hint").text.endswith("and 5.0 MB each."))
        page.button("Reload").click()
        page.wait(lambda: page.script("return document.body.dataset.version") == version)
        page.wait(lambda: page.one(".state").text.startswith("Ready"))
        notices = page.all(".toast")
    assert notice.startswith("The server was updated. Reload this page")
    assert notices == []


def test_rate_limit_is_shown_in_the_servers_words(browser: Chrome, tmp_path: Path, samples: Path) -> None:
    with forked_program(tmp_path, RATE_LIMIT="6/hour") as service:
        service.until_ready()
        page = page_of(browser, service)
        page.open()
        page.choose(*[samples / name for name in ("hello.wav", "numbers.mp3", "code.flac")])
        page.button("Transcribe 3 recordings").click()
        row = next(iter(page.wait(lambda: [row for row in page.rows() if "Trying again in" in row])))
        message = service.client.get("/v1/jobs").json()["error"]["message"]
    assert message in row


def test_unknown_job_is_explained_in_the_servers_words(browser: Chrome, tmp_path: Path) -> None:
    with forked_program(tmp_path) as service:
        service.until_ready()
        page = page_of(browser, service)
        page.open()
        page.script("location.hash = '#/jobs/gone'")
        shown = page.one(".missing").text
        message = service.client.get("/v1/jobs/gone").json()["error"]["message"]
    assert message in shown


def test_phone_scrolls_no_view_sideways(phone: Chrome, tmp_path: Path, samples: Path) -> None:
    overflow: dict[str, list[str]] = {}
    with forked_program(tmp_path) as service:
        service.until_ready()
        job_id = service.submit(
            samples / "two_speakers_stereo.flac",
            name=HOSTILE_NAME,
            stored_output="true",
            keep_audio="true",
            multichannel="true",
            word_timestamps="true",
        )
        service.until(job_id, "completed")
        page = page_of(phone, service)
        page.open()
        page.wait(page.rows)
        overflow["start"] = page.script(_OVERFLOW)
        page.script("document.querySelector('summary').click()")
        page.drop(HOSTILE_NAME, "not audio")
        page.button("Transcribe")
        overflow["staged"] = page.script(_OVERFLOW)
        page.button("Keyboard shortcuts").click()
        page.one("dialog")
        overflow["shortcuts"] = page.script(_OVERFLOW)
        page.button("Close").click()
        page.show_job(job_id)
        page.wait(lambda: stylesheets_apply(page))
        overflow["job"] = page.script(_OVERFLOW)
        page.button("Download").click()
        overflow["download"] = page.script(_OVERFLOW)
        page.button("Download").click()
        page.edit()
        overflow["editing"] = page.script(_OVERFLOW)
    assert overflow.keys() == {"start", "staged", "shortcuts", "job", "download", "editing"}
    assert {view: elements for view, elements in overflow.items() if elements} == {}
