"""Speakers in the view of a job, in a browser: told apart by their voices, named, and one for each channel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.reading_page import FinishedJob, ReadingPage, finish_job, read_job, result
from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

STORED: Final = {"stored_output": "true", "keep_audio": "true", "word_timestamps": "true"}
TURNS: Final = [
    "hello this is victor",
    "hello victor my name is india",
    "is the report ready",
    "yes the report is complete",
    "please send it today",
    "thank you and good night",
]
#: The colours of the waveform at some shares of its width.
_COLOURS: Final = """
const canvas = document.querySelector(".waveform canvas"), context = canvas.getContext("2d");
return arguments[0].map((share) => {
  const x = Math.floor((Math.floor((share * canvas.clientWidth) / 4) * 4 + 1) * devicePixelRatio);
  return [...context.getImageData(x, Math.floor(canvas.height / 2), 1, 1).data].join();
});
"""


@pytest.fixture(scope="module")
async def finished(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel, samples: Path) -> FinishedJob:
    return await finish_job(
        tmp_path_factory.mktemp("finished"), model, samples / "two_speakers_stereo.flac", diarize="true", **STORED
    )


@pytest.fixture
def job_id(finished: FinishedJob) -> str:
    """A finished job with two voices on one channel."""
    return finished.id


@pytest.fixture
async def running(
    request: pytest.FixtureRequest, finished: FinishedJob, tmp_path: Path, model: WhisperModel
) -> AsyncIterator[Running]:
    """A service, which has the finished job if the test asks for it."""
    if "job_id" in request.fixturenames:
        finished.copy_to(tmp_path / "data")
    async with serving(tmp_path / "data", lambda: model) as running:
        yield running


class SpeakersPage(ReadingPage):
    """The view of a job with speakers."""

    def speakers(self) -> list[str]:
        """Return the badges of speakers: their sign and their name."""
        badges: list[str] = self.script(
            "return [...document.querySelectorAll('.speaker')].map((badge) => "
            "[...badge.children].map((part) => part.textContent).join(' '))"
        )
        return badges

    def name(self, number: int, name: str) -> None:
        """Name the speaker of a badge."""
        self.all(".speaker")[number].click()
        self.wait(lambda: self.all("#speaker-name:focus"))
        self.press(name, Keys.ENTER)

    def wait_for(self, *speakers: str) -> None:
        self.wait(lambda: self.speakers() == list(speakers))

    def saved_names(self) -> dict[str, str]:
        """Return the names that the server has."""
        path = self.script("return location.hash").removeprefix("#/jobs/")
        names: dict[str, str] = httpx.get(f"{self.address}/v1/jobs/{path}/transcript").json()["speakers"]
        return names


async def read(browser: Chrome, running: Running, job_id: str, reader: Callable[[SpeakersPage], Any]) -> Any:
    """Return what a reader, who blocks, brings from the view of a job. Check that the console shows no errors."""
    return await read_job(SpeakersPage(browser, running.address), job_id, reader)


async def test_recording_is_sent_to_have_its_speakers_told_apart(
    browser: Chrome, running: Running, samples: Path
) -> None:
    def visitor(page: WebPage) -> tuple[list[str], str]:
        page.open()
        page.wait(lambda: page.all("#speakers option[value=voices]"))
        page.one("#speakers").send_keys("By their voices")
        page.wait(lambda: page.script("return document.activeElement.id") == "speakers")
        page.one("#speaker-count").send_keys("2")
        page.driver.refresh()
        page.wait(lambda: page.all("#speaker-count"))
        count = page.script("return document.querySelector('#speaker-count').value")
        page.choose(samples / "two_speakers_stereo.flac")
        page.button("Transcribe").click()
        page.button("Download")
        reading = SpeakersPage(page.driver, page.address)
        return page.wait(reading.speakers), str(count)

    speakers, count = await WebPage(browser, running.address).show(visitor)
    assert count == "2"
    assert speakers == ["A Speaker A", "B Speaker B"] * 3


async def test_voices_are_not_offered_by_a_server_without_them(
    browser: Chrome, tmp_path: Path, model: WhisperModel
) -> None:
    def visitor(page: WebPage) -> list[str]:
        page.open()
        page.wait(lambda: "up to" in page.one(".hint").text)  # the server has described itself
        return [option.text for option in page.all("#speakers option")]

    async with serving(tmp_path / "data", lambda: model, diarization_model="none") as running:
        offered = await WebPage(browser, running.address).show(visitor)
    assert offered == ["No", "One per channel"]


async def test_voices_have_badges_colours_and_paragraphs(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> tuple[list[str], list[str], list[str]]:
        page.wait(page.can_play)
        colours = page.script(
            "return [...document.querySelectorAll('.speaker')].map((badge) => getComputedStyle(badge).color)"
        )
        return page.speakers(), page.paragraphs(), colours

    speakers, paragraphs, colours = await read(browser, running, job_id, reader)
    assert speakers == ["A Speaker A", "B Speaker B"] * 3
    assert paragraphs == TURNS
    assert colours == colours[:2] * 3
    assert len(set(colours)) == 2


async def test_waveform_has_the_colours_of_the_voices(browser: Chrome, running: Running, job_id: str) -> None:
    document = json.loads(await result(running, job_id))
    middles = [(segment["start"] + segment["end"]) / 2 / document["duration"] for segment in document["segments"]]

    def reader(page: SpeakersPage) -> list[str]:
        page.wait(lambda: len(set(page.script(_COLOURS, middles))) == 2)
        colours: list[str] = page.script(_COLOURS, middles)
        return colours

    colours = await read(browser, running, job_id, reader)
    assert colours == colours[:2] * 3


async def test_name_is_typed_with_the_keyboard_alone_and_kept(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> tuple[list[str], list[str], list[str]]:
        page.script("document.querySelector('.stamp').focus()")
        page.press(Keys.TAB, Keys.ARROW_DOWN)
        focused = [page.focused().replace("\n", " ")]
        page.press(Keys.ENTER)
        page.wait(lambda: page.all("#speaker-name:focus"))
        page.press("Zoë Kranz", Keys.ENTER)
        page.wait_for(*["A Speaker A", "Z Zoë Kranz"] * 3)
        focused.append(page.focused().replace("\n", " "))
        page.one(".badge")
        page.show_job(job_id)
        return focused, page.speakers(), page.paragraphs()

    focused, after_reload, paragraphs = await read(browser, running, job_id, reader)
    document = json.loads(await result(running, job_id))
    assert focused == ["B Speaker B", "Z Zoë Kranz"]
    assert after_reload == ["A Speaker A", "Z Zoë Kranz"] * 3
    assert paragraphs == TURNS
    assert {segment["speaker"] for segment in document["segments"]} == {"A", "Zoë Kranz"}
    assert {word["speaker"] for word in document["words"]} == {"A", "Zoë Kranz"}


async def test_editor_is_left_without_a_change_and_the_focus_returns(
    browser: Chrome, running: Running, job_id: str
) -> None:
    def reader(page: SpeakersPage) -> tuple[list[str], str, str, dict[str, str]]:
        page.all(".speaker")[1].click()
        page.wait(lambda: page.all("#speaker-name:focus"))
        label = page.script("return document.querySelector('.naming').ariaLabel")
        page.press("Zoë", Keys.ESCAPE)
        page.wait(lambda: not page.all(".naming"))
        return page.speakers(), page.focused().replace("\n", " "), str(label), page.saved_names()

    speakers, focused, label, names = await read(browser, running, job_id, reader)
    assert speakers == ["A Speaker A", "B Speaker B"] * 3
    assert (focused, label, names) == ("B Speaker B", "Name Speaker B", {})


async def test_name_is_undone_made_again_and_removed(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> list[dict[str, str]]:
        names = []
        page.name(0, "Zoë")
        page.wait_for(*["Z Zoë", "B Speaker B"] * 3)
        page.one(".badge")
        page.button("Undo the last correction").click()
        page.wait_for(*["A Speaker A", "B Speaker B"] * 3)
        names.append(page.saved_names())
        page.button("Redo the correction").click()
        page.wait_for(*["Z Zoë", "B Speaker B"] * 3)
        names.append(page.saved_names())
        page.show_job(job_id)
        page.name(0, Keys.BACKSPACE)
        page.wait_for(*["A Speaker A", "B Speaker B"] * 3)
        page.wait(lambda: not page.saved_names())
        return names

    assert await read(browser, running, job_id, reader) == [{}, {"A": "Zoë"}]


async def test_speakers_with_one_name_are_one_until_it_is_removed(
    browser: Chrome, running: Running, job_id: str
) -> None:
    def reader(page: SpeakersPage) -> tuple[list[str], dict[str, str]]:
        page.name(1, "A")
        page.wait_for("A Speaker A")
        page.wait(lambda: page.saved_names() == {"B": "A"})
        page.show_job(job_id)
        page.name(0, "Zoë")
        page.wait(lambda: page.saved_names() == {"A": "Zoë", "B": "Zoë"})
        page.show_job(job_id)
        shown, names = page.speakers(), page.saved_names()
        page.name(0, Keys.BACKSPACE)
        page.wait_for(*["A Speaker A", "B Speaker B"] * 3)
        return shown, names

    shown, names = await read(browser, running, job_id, reader)
    assert shown == ["Z Zoë"]
    assert names == {"A": "Zoë", "B": "Zoë"}


async def test_names_and_corrected_texts_keep_each_other(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> tuple[list[str], list[str]]:
        page.name(0, "Zoë")
        page.wait_for(*["Z Zoë", "B Speaker B"] * 3)
        page.edit()
        page.correct("victor", "Viktor")
        page.leave_editing()
        page.name(1, "Noor")
        page.wait_for(*["Z Zoë", "N Noor"] * 3)
        page.wait(lambda: len(page.saved_names()) == 2)
        page.show_job(job_id)
        return page.speakers(), page.paragraphs()

    speakers, paragraphs = await read(browser, running, job_id, reader)
    assert speakers == ["Z Zoë", "N Noor"] * 3
    assert paragraphs == ["hello this is Viktor", *TURNS[1:]]
    assert (await result(running, job_id, "text")).decode().startswith("Zoë: hello this is Viktor\nNoor: hello victor")


async def test_two_names_of_one_speaker_are_shown(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> tuple[str, dict[str, str]]:
        page.name(0, "Zoë")
        page.one(".badge")
        page.all(".speaker")[0].click()
        page.wait(lambda: page.all("#speaker-name:focus"))
        theirs = {"segments": [{"id": 1, "text": " Theirs."}], "speakers": {"A": "Noor"}}
        httpx.put(f"{page.address}/v1/jobs/{job_id}/transcript", json=theirs).raise_for_status()
        page.wait_for(*["N Noor", "B Speaker B"] * 3)
        page.press("Zoë Kranz", Keys.ENTER)
        notice = page.one(".notice.bad").text
        page.button("Keep mine").click()
        page.wait(lambda: not page.all(".notice.bad"))
        page.wait_for(*["Z Zoë Kranz", "B Speaker B"] * 3)
        page.wait(lambda: "Theirs." in page.text())
        assert [error for error in page.console_errors() if "412 (Precondition Failed)" not in error] == []
        return notice, page.saved_names()

    notice, names = await read(browser, running, job_id, reader)
    assert "Someone else named the same speaker" in notice
    assert "Speaker A: Noor" in notice
    assert names == {"A": "Zoë Kranz"}


async def test_name_that_someone_else_gave_can_be_changed(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> dict[str, str]:
        page.name(0, "Zoë")
        page.one(".badge")
        theirs = {"segments": [], "speakers": {"A": "Noor", "B": "Ida"}}
        httpx.put(f"{page.address}/v1/jobs/{job_id}/transcript", json=theirs).raise_for_status()
        page.wait_for(*["N Noor", "I Ida"] * 3)
        page.name(0, "Zoë Kranz")
        page.wait_for(*["Z Zoë Kranz", "I Ida"] * 3)
        page.wait(lambda: "Zoë Kranz" in page.saved_names().values())
        return page.saved_names()

    assert await read(browser, running, job_id, reader) == {"A": "Zoë Kranz", "B": "Ida"}


async def test_every_download_has_the_names(browser: Chrome, running: Running, job_id: str, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    formats = {"Text": "text", "Subtitles": "srt", "Web subtitles": "vtt", "Turns": "rttm", "Everything": "document"}

    def reader(page: SpeakersPage) -> dict[str, bytes]:
        page.name(0, "Zoë")
        page.one(".badge")  # the job's change has arrived
        return {label: page.download(label, folder) for label in formats}

    downloads = await read(browser, running, job_id, reader)
    for label, response_format in formats.items():
        assert "Zoë".encode() in downloads[label], label
        assert downloads[label] == await result(running, job_id, response_format), label


async def test_turns_are_no_download_without_speakers(browser: Chrome, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", **STORED)
    await running.finished(job_id)

    def reader(page: SpeakersPage) -> str:
        page.button("Download").click()
        page.wait(lambda: page.focused().startswith("Text"))
        return page.one(".menu:popover-open").text

    menu = await read(browser, running, job_id, reader)
    assert "Subtitles" in menu
    assert "Turns" not in menu


async def test_search_finds_the_name_of_a_speaker(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: SpeakersPage) -> tuple[str, list[str]]:
        page.name(1, "Zoë Kranz")
        page.wait_for(*["A Speaker A", "Z Zoë Kranz"] * 3)
        page.key("/")
        page.press("kranz")
        return page.one(".count").text, page.highlighted("found")

    assert await read(browser, running, job_id, reader) == ("1 of 3", ["Zoë Kranz"])


async def test_channels_are_named_as_voices_are(browser: Chrome, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "two_speakers_stereo.flac", multichannel="true", **STORED)
    await running.finished(job_id)

    def reader(page: SpeakersPage) -> tuple[list[str], list[str]]:
        before = page.speakers()
        page.name(1, "Zoë")
        page.wait_for(*["A Speaker A", "Z Zoë"] * 3)
        page.one(".badge")
        page.show_job(job_id)
        return before, page.speakers()

    before, after_reload = await read(browser, running, job_id, reader)
    assert before == ["A Speaker A", "B Speaker B"] * 3
    assert after_reload == ["A Speaker A", "Z Zoë"] * 3
    assert "Zoë: hello victor" in (await result(running, job_id, "text")).decode()


async def test_speakers_of_a_phone_are_named_within_its_screen(browser: Chrome, running: Running, job_id: str) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}

    def reader(page: SpeakersPage) -> tuple[dict[str, float], int]:
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        try:
            page.name(0, "A very long name of somebody who says who he is, and where from")
            page.wait(lambda: page.speakers()[0].startswith("A A very"))
            page.all(".speaker")[-1].click()
            page.wait(lambda: page.all("#speaker-name:focus"))
            box = page.script("return document.querySelector('.naming').getBoundingClientRect().toJSON()")
            return box, page.script("return document.documentElement.scrollWidth")
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    box, width = await read(browser, running, job_id, reader)
    assert width <= 390
    assert 0 <= box["left"] < box["right"] <= 390
    assert 0 <= box["top"] < box["bottom"] <= 844
