"""The view of a job in a browser: live text, listening, searching, correcting, downloading."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from selenium.webdriver.common.keys import Keys

from tests.api.conftest import held
from tests.browser.reading_page import FinishedJob, ReadingPage, finish_job, read_job, result
from tests.support.service import serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel
    from tests.support.held_model import Held
    from tests.support.service import Running

__all__ = ["held"]

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser")]

WITH_WORDS: Final = {
    "stored_output": "true",
    "keep_audio": "true",
    "timestamp_granularities[]": ["segment", "word"],
}
FORMATS: Final = {
    "Text": "text",
    "Subtitles": "srt",
    "Web subtitles": "vtt",
    "Table": "tsv",
    "Turns of speakers": "rttm",
    "As OpenAI's API": "verbose_json",
    "Everything": "document",
}


@pytest.fixture(scope="module")
async def finished(tmp_path_factory: pytest.TempPathFactory, model: WhisperModel, samples: Path) -> FinishedJob:
    return await finish_job(
        tmp_path_factory.mktemp("finished"),
        model,
        samples / "two_speakers_stereo.flac",
        multichannel="true",
        **WITH_WORDS,
    )


@pytest.fixture
def job_id(finished: FinishedJob) -> str:
    """A finished job with two speakers, words and its recording."""
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


async def read(browser: Chrome, running: Running, job_id: str, reader: Callable[[ReadingPage], Any]) -> Any:
    """Return what a reader, who blocks, brings from the view of a job. Check that the console shows no errors."""
    return await read_job(ReadingPage(browser, running.address), job_id, reader)


async def test_turns_have_speakers_and_times(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> list[list[str]]:
        rows: list[list[str]] = page.script(
            "return [...document.querySelectorAll('.paragraph')].slice(0, 2).map((row) => "
            "[row.querySelector('.stamp').textContent, row.querySelector('.speaker').textContent])"
        )
        return rows

    assert await read(browser, running, job_id, reader) == [["0:00", "ASpeaker A"], ["0:02", "BSpeaker B"]]


async def test_click_on_a_word_seeks_and_highlights_it(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[float, list[str], str]:
        page.wait(page.can_play)
        page.play_and_pause()
        page.click_word("complete")
        page.wait(lambda: page.highlighted("spoken") == ["complete"])
        return page.seconds, page.highlighted("spoken"), page.one("[aria-current] p").text

    document = json.loads(await result(running, job_id))
    start = next(word["start"] for word in document["words"] if word["word"].startswith("complete"))
    seconds, _, paragraph = await read(browser, running, job_id, reader)
    assert seconds == pytest.approx(start, abs=0.05)
    assert paragraph == "yes the report is complete"


async def test_click_on_a_word_plays_from_it_until_the_user_pauses(
    browser: Chrome, running: Running, job_id: str
) -> None:
    def reader(page: ReadingPage) -> tuple[float, str | None]:
        page.wait(page.can_play)
        page.click_word("report")
        page.button("Pause")
        started_at = page.seconds
        page.key(" ")
        page.button("Play")
        page.click_word("hello")
        page.wait(lambda: page.highlighted("spoken") == ["hello"])
        label = page.one(".play").get_attribute("aria-label")
        page.double_click_word("hello")
        page.button("Pause")
        return started_at, label

    document = json.loads(await result(running, job_id))
    start = next(word["start"] for word in document["words"] if word["word"] == "report")
    started_at, label = await read(browser, running, job_id, reader)
    assert start - 0.05 <= started_at
    assert label == "Play"


async def test_menu_and_focus_stay_when_the_job_changes(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[str, str, str]:
        page.button("Download").click()
        page.wait(lambda: page.focused().startswith("Text"))
        page.press(Keys.ARROW_DOWN)
        httpx.patch(f"{page.address}/v1/jobs/{job_id}", json={"name": "renamed"}).raise_for_status()
        segments = [{"id": 0, "text": " Corrected."}]
        httpx.put(f"{page.address}/v1/jobs/{job_id}/transcript", json={"segments": segments}).raise_for_status()
        page.one(".badge")
        in_menu = page.focused()
        page.press(Keys.ESCAPE)
        page.script("document.querySelector('.jobs a').focus()")
        httpx.patch(f"{page.address}/v1/jobs/{job_id}", json={"name": "once more"}).raise_for_status()
        page.wait(lambda: page.rows()[0].startswith("once more"))
        return in_menu, page.one("h1").text, page.focused()

    in_menu, title, in_list = await read(browser, running, job_id, reader)
    assert in_menu.startswith("Subtitles")
    assert title == "once more"
    assert in_list.startswith("once more")


async def test_highlight_follows_the_recording(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[set[str], str]:
        page.wait(page.can_play)
        page.script("window.spoken = []; document.querySelector('video').playbackRate = 2")
        page.key(" ")
        page.wait(lambda: page.one("[aria-current] p").text == "is the report ready")
        playing = page.one(".play").get_attribute("aria-label")
        page.key(" ")
        page.wait(lambda: page.one(".play").get_attribute("aria-label") == "Play")
        return set(page.highlighted("spoken")), str(playing)

    spoken, playing = await read(browser, running, job_id, reader)
    assert spoken < {"is", "the", "report", "ready"}
    assert len(spoken) == 1
    assert playing == "Pause"


async def test_print_has_the_transcript_alone_in_black_on_white(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[str, set[str]]:
        page.script("localStorage.setItem('theme', 'dark'); dispatchEvent(new Event('theme'))")
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        try:
            text = page.script("return document.body.innerText.replace(/\\s+/g, ' ')")
            colours = page.script(
                "return [...document.querySelectorAll('h1, .speaker, .said p')]"
                ".map((each) => getComputedStyle(each).color)"
            )
        finally:
            page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        return text, set(colours)

    text, colours = await read(browser, running, job_id, reader)
    assert text.startswith("two_speakers_stereo.flac 0:12 · English")
    assert " 0:00 Speaker A hello this is victor 0:02 Speaker B hello victor" in text
    assert text.endswith("thank you and good night")
    assert colours == {"rgb(0, 0, 0)"}


async def test_search_counts_and_goes_round(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> list[str]:
        page.key("/")
        page.press("REPÓRT")
        counts = [page.one(".count").text]
        page.press(Keys.ENTER)
        counts.append(page.one(".count").text)
        page.press(Keys.ENTER)
        counts.append(page.one(".count").text)
        counts += page.highlighted("match")
        page.press(Keys.ESCAPE, "zzz")
        return [*counts, page.one(".count").text]

    seen = await read(browser, running, job_id, reader)
    assert seen == ["1 of 2", "2 of 2", "1 of 2", "report", "report", "Not found"]


async def test_correction_is_saved_and_kept(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[list[str], str]:
        page.edit()
        page.correct("victor", "Viktor")
        page.leave_editing()
        page.show_job(job_id)
        return page.paragraphs(), page.one(".badge").text

    shown, badge = await read(browser, running, job_id, reader)
    document = json.loads(await result(running, job_id))
    words = [word for word in document["words"] if word["channel"] == 0]
    assert shown[0] == "hello this is Viktor"
    assert badge == "Corrected"
    assert "this is Viktor" in document["text"]
    assert [word["word"].strip() for word in words][:4] == ["hello", "this", "is", "Viktor"]
    assert all(word["start"] < word["end"] for word in words)
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)


async def test_correction_survives_that_its_view_is_left_at_once(
    browser: Chrome, running: Running, job_id: str
) -> None:
    def reader(page: ReadingPage) -> list[str]:
        page.edit()
        page.click_word("victor")
        page.press(Keys.END, " Over.")
        page.script("location.hash = '#/'")
        page.wait(lambda: page.one("h1").text == "Turn speech into text")
        page.script("location.hash = arguments[0]", f"#/jobs/{job_id}")
        page.wait(lambda: "victor Over." in page.text())
        page.edit()
        page.correct("victor", "Viktor")
        return page.paragraphs()

    shown = await read(browser, running, job_id, reader)
    assert shown[0] == "hello this is Viktor Over."
    assert b"this is Viktor Over." in await result(running, job_id, "text")


async def test_correction_is_undone_and_made_again(browser: Chrome, running: Running, job_id: str) -> None:
    original = await result(running, job_id, "text")

    def reader(page: ReadingPage) -> tuple[str, str]:
        page.edit()
        page.correct("complete", "unfinished")
        page.leave_editing()
        page.button("Undo the last correction").click()
        page.wait(lambda: "unfinished" not in page.text())
        undone = page.text()
        page.button("Redo the correction").click()
        page.wait(lambda: "unfinished" in page.text())
        page.button("Undo the last correction").click()
        page.wait(lambda: page.text() == undone)
        return undone, page.text()

    undone, _ = await read(browser, running, job_id, reader)
    assert "the report is complete" in undone
    assert await result(running, job_id, "text") == original


async def test_two_corrections_of_the_same_text_are_shown(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> tuple[str, str]:
        page.edit()
        page.correct("victor", "Viktor")
        other = httpx.get(f"{page.address}/v1/jobs/{job_id}/transcript").json()["segments"]
        theirs = [{"id": segment["id"], "text": " Theirs."} for segment in other]
        httpx.put(f"{page.address}/v1/jobs/{job_id}/transcript", json={"segments": theirs}).raise_for_status()
        page.press(Keys.END, " Mine.")
        notice = page.one(".notice.bad").text
        page.button("Keep mine").click()
        page.wait(lambda: not page.all(".notice.bad"))
        page.wait_until_saved()
        assert [error for error in page.console_errors() if "412 (Precondition Failed)" not in error] == []
        return notice, page.text()

    notice, text = await read(browser, running, job_id, reader)
    assert "Someone else corrected the same text" in notice
    assert "Theirs." in notice
    assert "this is Viktor Mine." in text
    assert b"this is Viktor Mine." in await result(running, job_id, "text")


async def test_every_download_has_the_bytes_of_the_api(
    browser: Chrome, running: Running, job_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def reader(page: ReadingPage) -> dict[str, bytes]:
        return {label: page.download(label, folder) for label in FORMATS}

    downloads = await read(browser, running, job_id, reader)
    for label, response_format in FORMATS.items():
        assert downloads[label] == await result(running, job_id, response_format), label
    assert {path.name for path in folder.iterdir()} == {
        f"two_speakers_stereo.{extension}"
        for extension in ("txt", "srt", "vtt", "tsv", "rttm", "json", "document.json")
    }


async def test_every_download_has_the_correction(
    browser: Chrome, running: Running, job_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})

    def reader(page: ReadingPage) -> dict[str, bytes]:
        page.edit()
        page.correct("victor", "Viktor")
        page.one(".badge")  # the job's change has arrived
        return {label: page.download(label, folder) for label in FORMATS}

    downloads = await read(browser, running, job_id, reader)
    for label, response_format in FORMATS.items():
        assert b"Viktor" in downloads[label] or response_format == "rttm", label
        assert downloads[label] == await result(running, job_id, response_format), label


async def test_edit_begins_where_the_recording_is(browser: Chrome, running: Running, job_id: str) -> None:
    def reader(page: ReadingPage) -> str:
        page.wait(page.can_play)
        page.play_and_pause()
        page.click_word("complete")
        page.wait(lambda: page.highlighted("spoken") == ["complete"])
        page.button("Edit").click()
        page.wait(lambda: page.all("[contenteditable]:focus"))
        return page.focused()

    assert await read(browser, running, job_id, reader) == "yes the report is complete"


async def test_live_text_survives_a_reload_and_stays_in_place(
    browser: Chrome, tmp_path: Path, model: WhisperModel, samples: Path, held: Held
) -> None:
    def until_first_text(page: ReadingPage, job_id: str) -> tuple[list[str], list[str]]:
        page.open()
        page.show_job(job_id)
        before = page.paragraphs()
        page.show_job(job_id)
        return before, page.paragraphs()

    def until_done(page: ReadingPage) -> tuple[list[str], bool]:
        page.script("window.first = document.querySelector('.paragraph')")
        page.button("Download")
        is_same = page.script("return document.querySelector('.paragraph') === window.first")
        return page.paragraphs(), is_same

    async with serving(tmp_path / "data", lambda: model, whisper_batch_size=1) as running:
        page = ReadingPage(browser, running.address)
        job_id = await running.submit(samples / "long.opus", **WITH_WORDS)
        held.open.set()
        await eventually(lambda: held.decoded > 0)
        held.open.clear()
        before, after = await asyncio.to_thread(until_first_text, page, job_id)
        held.open.set()
        done, is_same = await asyncio.to_thread(until_done, page)
        document = json.loads(await result(running, job_id))
    assert before == after
    assert " ".join(done) == document["text"]
    assert " ".join(done).startswith(before[0])
    assert is_same


async def test_job_is_renamed_in_place_and_deleted_after_a_question(
    browser: Chrome, running: Running, job_id: str
) -> None:
    def reader(page: ReadingPage) -> tuple[str, str]:
        page.button("Rename").click()
        page.press(Keys.CONTROL + "a")
        page.press("<b>Q&A</b>", Keys.ENTER)
        page.wait(lambda: page.rows()[0].startswith("<b>Q&A</b>|"))
        title = page.one("h1").text
        page.button("More").click()
        page.button("Delete…").click()
        page.button("Delete").click()
        page.wait(lambda: page.driver.current_url.endswith("#/"))
        return title, page.driver.current_url

    title, address = await read(browser, running, job_id, reader)
    assert title == "<b>Q&A</b>"
    assert address.endswith("#/")
    assert (await running.client.get(f"/v1/jobs/{job_id}")).status_code == 404


async def test_failure_is_shown_in_the_servers_words(browser: Chrome, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "references.json", stored_output="true", keep_audio="true")
    job = await running.finished(job_id)

    def visit() -> tuple[str, list[str]]:
        page = ReadingPage(browser, running.address)
        page.open()
        page.driver.get(f"{page.address}/#/jobs/{job_id}")
        shown = page.one(".notice.bad").text
        return shown, page.script("return performance.getEntriesByType('resource').map(({ name }) => name)")

    shown, loaded = await asyncio.to_thread(visit)
    assert not any("/waveform" in url or "/ticket" in url for url in loaded)
    assert job["error"] in shown
    assert "Check that the file plays on your computer" in shown


async def test_recording_that_was_not_kept_is_explained(browser: Chrome, running: Running, samples: Path) -> None:
    job_id = await running.submit(samples / "hello.wav", stored_output="true")
    await running.finished(job_id)

    def reader(page: ReadingPage) -> tuple[str, int]:
        return page.one(".foot").text, len(page.all(".player"))

    sentence, players = await read(browser, running, job_id, reader)
    assert sentence.startswith("The recording was not kept on the server")
    assert players == 0
