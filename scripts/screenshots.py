"""Take the screenshots of the page in ``docs/``, light and dark, in Chromium and with OpenAI's tiny.en.

python scripts/screenshots.py [--model DIRECTORY]
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import av
import demo_service
import httpx
import numpy as np
import real_models
from faster_whisper.audio import decode_audio
from ports import free_port
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

VOICES: Final = demo_service.ROOT / "tests" / "real" / "recordings"
#: Recordings that two people read in turn, one of them on each channel.
TURNS: Final = ("quilter.ogg", "jfk.ogg", "curiosity.ogg", "wizard.ogg", "dashwood.ogg")
#: Others, for the list.
OTHERS: Final = (
    ("corpus.ogg", "Microphone test.ogg"),
    ("wizard.ogg", "Chapter 15.mp3"),
    ("jfk.ogg", "Inaugural address.mp4"),
)
SAMPLE_RATE: Final = 16_000
PAUSE_SECONDS: Final = 0.8
SHOWN_WORD: Final = "country"
LIMIT_SECONDS: Final = 60
FLAGS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"),
    *("--window-size=1180,880", "--no-proxy-server", "--disable-background-networking"),
)
#: The place in the window where the text has ``arguments[0]`` last.
CLICK_WORD: Final = """
const [sought] = arguments;
for (const text of document.querySelectorAll(".paragraph p")) {
  const from = text.textContent.lastIndexOf(sought);
  if (from < 0) continue;
  const range = document.createRange();
  range.setStart(text.firstChild, from);
  range.setEnd(text.firstChild, from + sought.length);
  const { left, top, width, height } = range.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=real_models.tiny_en(), help="a directory (default: tiny.en of its package)"
    )
    model = parser.parse_args().model
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None or model is None:
        sys.stderr.write("This needs chromium, chromedriver and requirements/whisper-tiny-en.lock: install them.\n")
        return 1
    settings = {"WHISPER_MODEL": str(model)}
    with (
        tempfile.TemporaryDirectory() as folder,
        demo_service.Service(Path(folder), settings, port=free_port()) as service,
    ):
        service.wait_until_ready()
        address = service.address
        for name, title in OTHERS:
            transcribe(address, title, (VOICES / name).read_bytes())
        job_id = transcribe(address, "Interview.flac", interview(), multichannel="true")
        browser = open_browser(chromium, chromedriver)
        try:
            for theme in ("light", "dark"):
                path = demo_service.ROOT / "docs" / f"page-{theme}.png"
                path.write_bytes(screenshot(browser, f"{address}/#/jobs/{job_id}", theme))
                print(f"{path.relative_to(demo_service.ROOT)}: {path.stat().st_size / 1000:.0f} kB")
        finally:
            browser.quit()
    return 0


def interview() -> bytes:
    """Return a FLAC file of the turns."""
    pause = np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    turns = [np.concatenate([decode_audio(str(VOICES / name), SAMPLE_RATE), pause]) for name in TURNS]
    silences = [np.zeros_like(turn) for turn in turns]
    channels = [
        np.concatenate([(turns, silences)[number % 2 != channel][number] for number in range(len(turns))])
        for channel in (0, 1)
    ]
    output = io.BytesIO()
    with av.open(output, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="stereo")
        samples = (np.stack(channels, axis=1) * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate = SAMPLE_RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return output.getvalue()


def transcribe(address: str, title: str, audio: bytes, **fields: str) -> str:
    """Return the id of a job once it is completed."""
    response = httpx.post(
        f"{address}/v1/audio/transcriptions",
        files={"file": (title, audio)},
        data={
            "stored_output": "true",
            "keep_audio": "true",
            "timestamp_granularities[]": ["segment", "word"],
            **fields,
        },
    )
    response.raise_for_status()
    job: dict[str, Any] = response.json()
    deadline = time.monotonic() + LIMIT_SECONDS
    while job["status"] != "completed" and time.monotonic() < deadline:
        time.sleep(0.2)
        job = httpx.get(f"{address}/v1/jobs/{job['job_id']}").json()
    return str(job["job_id"])


def open_browser(chromium: str, chromedriver: str) -> Chrome:
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    return Chrome(options=options, service=Service(chromedriver))


def screenshot(browser: Chrome, url: str, theme: str) -> bytes:
    """Return a PNG of the page at a word of the recording."""

    def until(script: str) -> None:
        WebDriverWait(browser, LIMIT_SECONDS).until(lambda driver: driver.execute_script(f"return {script}"))

    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    browser.get(url)
    until("document.querySelector('video')?.readyState > 0 && document.querySelector('.paragraph p') !== null")
    x, y = browser.execute_script(CLICK_WORD, SHOWN_WORD)
    click = {"x": x, "y": y, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **click})
    until("CSS.highlights.get('spoken')?.size")
    browser.execute_async_script("setTimeout(arguments[0], 500)")  # the waveform is drawn, colours have faded
    return browser.get_screenshot_as_png()


if __name__ == "__main__":
    sys.exit(main())
