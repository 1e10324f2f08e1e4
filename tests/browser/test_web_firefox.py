"""The page in Firefox: from an upload to a correction and to the name of a speaker, which a reload keeps."""

from __future__ import annotations

import base64
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from tests.browser.firefox import firefox
from tests.browser.reading_page import HIGHLIGHTED, MIDDLE_OF_WORD
from tests.faults.forked_program import forked_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.browser.firefox import Firefox
    from tests.support.program import Program

pytestmark = pytest.mark.full(reason="starts a browser and a service")

_TEXT = "return [...document.querySelectorAll('.paragraph p')].map((text) => text.textContent).join(' ')"
_SPEAKERS = "[...document.querySelectorAll('.speaker span')].map((name) => name.textContent)"
_BUTTON = "[...document.querySelectorAll('button')].find((button) => button.textContent === arguments[0])"

#: Sends a recording through the modules of the live text, because without sound devices Firefox plays no other audio.
_HEAR: Final = """
window.texts = [];
const folder = document.querySelector("script[type=module]").src.replace("main.js", "");
const hear = async () => {
  const [{ Api }, { Resampler, base64, capture }, { LiveSession, ...live }] = await Promise.all(
    ["api.js", "live/audio.js", "live/session.js"].map((name) => import(folder + name)));
  const context = new OfflineAudioContext(1, 6 * 44100, 44100);
  const buffer = await context.decodeAudioData(Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0)).buffer);
  const source = new AudioBufferSourceNode(context, { buffer });
  const api = new Api(document.baseURI, sessionStorage);
  const session = new LiveSession({
    connect: () => live.connect(api),
    refusal: () => live.refusal(api),
    config: live.configuration([["language", "en"]]),
    onText: (id, text, isFinal) => isFinal && window.texts.push(text),
    onLeftOut: () => window.problems.push("left out"),
    onEnd: (reason) => window.texts.push(`end${reason}`),
  });
  const resampler = new Resampler(context.sampleRate);
  let pieces = 0;
  await capture(source, (samples) => {
    session.append(base64(resampler.push(samples)));
    if (++pieces === 50) session.finish(); // after the last word
  });
  source.start();
  await context.startRendering();
};
hear().catch((error) => window.problems.push(String(error)));
"""


@pytest.fixture(scope="module")
def in_firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Firefox]]:
    """The service and a browser, whose start takes several seconds of a core. Without one the test is skipped."""
    installed = shutil.which("firefox-esr") or shutil.which("firefox")
    if installed is None:
        pytest.skip("firefox-esr is not installed")
    folder = tmp_path_factory.mktemp("firefox")
    profile = folder / "profile"
    profile.mkdir()
    with forked_program(folder) as service, firefox(installed, profile) as browser:
        service.until_ready()
        yield service, browser


def test_recording_is_sent_heard_and_corrected(in_firefox: tuple[Program, Firefox], samples: Path) -> None:
    service, browser = in_firefox
    address = str(service.client.base_url).rstrip("/")
    browser.open(f"{address}/")
    browser.until("return document.querySelector('h1') !== null")
    browser.choose(samples / "hello.wav")
    browser.until(f"return {_BUTTON} && ({_BUTTON}.click(), true)", "Transcribe")
    browser.until("return document.querySelector('video')?.readyState > 0")
    text = browser.until(_TEXT)
    job_id = browser.run("return location.hash").removeprefix("#/jobs/")
    document = service.client.get(f"/v1/jobs/{job_id}/result?response_format=document").json()
    last = document["words"][-1]

    browser.click(*browser.run(MIDDLE_OF_WORD, last["word"].strip()))
    spoken = browser.until(f"if (!CSS.highlights.get(arguments[0])?.size) return; {HIGHLIGHTED}", "spoken")
    seconds = browser.run("return document.querySelector('video').currentTime")

    browser.run(f"{_BUTTON}.click()", "Edit")
    browser.until("return document.activeElement.isContentEditable")
    browser.run("getSelection().selectAllChildren(document.activeElement); getSelection().collapseToEnd()")
    browser.type(" Over")
    browser.until("return document.querySelector('.saving').textContent === 'Saved'")
    before = browser.run("return window.problems")
    browser.reload()
    corrected = browser.until(_TEXT)
    loaded = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    problems = before + browser.run("return window.problems")
    browser.open("about:blank")
    result = service.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": "text"}).text
    assert text == document["text"]
    assert spoken == [last["word"].strip()]
    assert last["start"] - 0.05 <= seconds  # it plays
    assert corrected == result.strip() == f"{text} Over"
    assert [url for url in loaded if not url.startswith((f"{address}/", f"blob:{address}/"))] == []
    assert problems == []


def test_speaker_is_named_and_the_focus_returns(in_firefox: tuple[Program, Firefox], samples: Path) -> None:
    service, browser = in_firefox
    job_id = service.submit(samples / "two_speakers_stereo.flac", diarize="true", stored_output="true")
    service.until(job_id, "completed")
    browser.open(f"{str(service.client.base_url).rstrip('/')}/#/jobs/{job_id}")
    browser.until(f"return {_SPEAKERS}.length === 6 && (document.querySelector('.speaker').click(), true)")
    browser.until("return document.activeElement.id === 'speaker-name'")
    browser.type("Zoë\ue007")
    browser.until(f"return {_SPEAKERS}.filter((name) => name === 'Zoë').length === 3")
    focused = browser.run("return document.activeElement.textContent")
    browser.until("return document.querySelector('.badge') !== null")
    problems = browser.run("return window.problems")
    browser.reload()
    browser.until(f"return {_SPEAKERS}.length === 6")
    names = browser.run(f"return {_SPEAKERS}")
    browser.open("about:blank")
    assert focused == "ZZoë"
    assert names == ["Zoë", "Speaker B"] * 3
    assert problems == []


def test_what_is_heard_becomes_text(in_firefox: tuple[Program, Firefox], samples: Path) -> None:
    service, browser = in_firefox
    browser.open(f"{str(service.client.base_url).rstrip('/')}/")
    browser.until("return document.querySelector('h1') !== null")
    browser.run(_HEAR, base64.b64encode((samples / "hello.wav").read_bytes()).decode())
    browser.until("return window.problems.length > 0 || window.texts.at(-1)?.startsWith('end')")
    texts, problems = browser.run("return [window.texts, window.problems]")
    browser.open("about:blank")
    assert problems == []
    assert texts == ["hello this is a test", "the job is complete now", "end"]
