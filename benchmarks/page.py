"""The web page in Chromium: what it loads, and its times and memory with 10 hours of text and with 1,000 jobs."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import statistics
import struct
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from app.domain.formats import Granularity, Rendering
from app.domain.job import Job, JobStatus
from app.domain.transcript import Segment, Task, Transcript, TranscriptionOptions, Word
from app.domain.waveform import Waveform
from app.jobs.journal import Journal
from app.jobs.service_clock import ServiceClock
from app.jobs.spool import Spool
from benchmarks.serving import service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JOBS: Final = 1000
WORDS: Final = 90_000
SECONDS: Final = 36_000
_SAMPLE_RATE: Final = 4000
_PEAKS_PER_SECOND: Final = 20
#: Each occurs some 6,000 times.
_VOCABULARY: Final = (
    "the",
    "of",
    "and",
    "archive",
    "town",
    "library",
    "cassette",
    "people",
    "radio",
    "village",
    "tape",
    "every",
    "word",
    "hour",
    "farmer",
)
_LIMIT_SECONDS: Final = 60
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # unavailable to root in a container
    "--disable-dev-shm-usage",  # small in a container
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1440,900",
    "--enable-precise-memory-info",
    "--js-flags=--expose-gc",
)

#: Files that were fetched, and their compressed sizes.
_FILES: Final = """
return [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter(({ name, transferSize }) => transferSize && !new URL(name).pathname.startsWith("/v1/"))
  .map(({ encodedBodySize }) => encodedBodySize)
"""
_FIRST_PAINT: Final = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
#: Runs before the page's own scripts: notes when all jobs are in the list and painted.
_WATCH_LIST: Final = """
new MutationObserver((_, observer) => {
  if (document.querySelectorAll(".jobs li").length < %d) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => (window.listPainted = performance.now())));
}).observe(document, { childList: true, subtree: true });
"""
#: Milliseconds from the last byte of the list to the painted list.
_LIST: Final = """
const { responseEnd } = performance.getEntriesByType("resource").find(({ name }) => name.includes("/v1/jobs?"));
return window.listPainted && window.listPainted - responseEnd;
"""
#: Milliseconds from the choice of the job to its painted text, and those until its document had arrived.
_OPEN: Final = """
const [id, done] = arguments, start = performance.now();
const look = () => {
  if (document.querySelectorAll(".paragraph").length < 500) return setTimeout(look, 2);
  requestAnimationFrame(() => setTimeout(() => {
    const document_ = performance.getEntriesByType("resource").find(({ name }) => name.includes("/result?"));
    done([performance.now() - start, document_.responseEnd - document_.startTime]);
  }));
};
location.hash = `#/jobs/${id}`;
look();
"""
#: Milliseconds of 300 steps to the next word, its highlight and layout included.
_NEXT_WORDS: Final = """
const media = document.querySelector("video"), spent = [];
let now = 0;
Object.defineProperty(media, "currentTime", { get: () => now, set() {}, configurable: true });
for (let step = 0; step < 300; step++) {
  now = 18000 + step * 0.4;
  const start = performance.now();
  media.dispatchEvent(new Event("timeupdate"));
  document.body.offsetHeight;
  spent.push(performance.now() - start);
}
delete media.currentTime;
return spent;
"""
#: Milliseconds from the input of a text to its painted occurrences, and their count.
_SEARCH: Final = """
const [text, done] = arguments, input = document.querySelector(".finding input");
input.value = text;
const start = performance.now();
input.dispatchEvent(new Event("input"));
const count = document.querySelector(".count");
requestAnimationFrame(() => setTimeout(() => done([performance.now() - start, count.textContent])));
"""
_HEAP: Final = "gc(); return performance.memory.usedJSHeapSize / 1e6"
_ELEMENTS: Final = "return document.querySelectorAll('.transcript *').length"


class Skipped(RuntimeError):
    """The section can't be measured here; the message says why."""


def measure(*, runs: int) -> str:
    """Return a section with the files, times and memory of the page.

    Raises:
        Skipped: Chromium is not installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise Skipped("chromium and chromedriver are not installed")
    with TemporaryDirectory(prefix="benchmark-") as folder:
        data = Path(folder, "data")
        long = asyncio.run(_fill(data))
        with service(DATA_DIR=str(data)) as client, _browser(chromium, driver, folder) as browser:
            figures = [_visit(browser, str(client.base_url), long.id) for _ in range(runs)]
    return _section(figures)


def _visit(browser: Chrome, address: str, job_id: str) -> dict[str, Any]:
    """Return the figures of a tab that loads the page without its cache, shows the list, and opens the long job."""
    figures: dict[str, Any] = {"version": browser.capabilities["browserVersion"]}
    for view, path in (("job", f"#/jobs/{job_id}"), ("start", "")):
        browser.get("about:blank")
        browser.execute_cdp_cmd("Network.clearBrowserCache", {})
        browser.get(f"{address}/{path}")
        _until(lambda: browser.execute_script("return document.querySelector('h1') && window.listPainted"))
        sizes = browser.execute_script(_FILES)
        figures[f"{view} files"], figures[f"{view} bytes"] = len(sizes), sum(sizes)
    figures["first paint"] = browser.execute_script(_FIRST_PAINT)
    figures["list"] = browser.execute_script(_LIST)
    figures["heap before"] = browser.execute_script(_HEAP)
    figures["open"], figures["document"] = browser.execute_async_script(_OPEN, job_id)
    _until(lambda: browser.execute_script("return document.querySelector('video')?.readyState > 0"))
    figures["elements"] = browser.execute_script(_ELEMENTS)
    figures["heap"] = browser.execute_script(_HEAP)
    figures["next words"] = browser.execute_script(_NEXT_WORDS)
    for name, text in (("word", "cassette"), ("letter", "e"), ("nothing", "zzz")):
        figures[f"search {name}"], figures[f"{name} count"] = browser.execute_async_script(_SEARCH, text)
    assert figures["nothing count"] == "Not found", figures
    return figures


def _section(figures: list[dict[str, Any]]) -> str:
    def of(name: str) -> float:
        return float(statistics.median(run[name] for run in figures))

    steps = sorted(step for run in figures for step in run["next words"])
    first = figures[0]
    rows = [
        ("files of the start view", f"{of('start files'):.0f}, {of('start bytes') / 1000:.1f} kB"),
        ("files of a job that is opened directly", f"{of('job files'):.0f}, {of('job bytes') / 1000:.1f} kB"),
        ("first contentful paint of the start view", f"{of('first paint'):.0f} ms"),
        (f"list of {JOBS:,} jobs, from its last byte to the paint", f"{of('list'):.0f} ms"),
        ("10 h opened, from the click to the paint", f"{of('open') / 1000:.2f} s"),
        ("of these the server's JSON and its transfer", f"{of('document') / 1000:.2f} s"),
        ("elements of the transcript", f"{of('elements'):,.0f}"),
        ("next word, median and p95", f"{statistics.median(steps):.1f}, {steps[int(len(steps) * 0.95)]:.1f} ms"),
        (f"search: a word ({_count(first['word count'])} times)", f"{of('search word'):.0f} ms"),
        (f"search: a letter ({_count(first['letter count'])} times)", f"{of('search letter'):.0f} ms"),
        ("search: nothing found", f"{of('search nothing'):.0f} ms"),
        ("heap with the list, and with 10 h besides", f"{of('heap before'):.0f}, {of('heap'):.0f} MB"),
    ]
    return (
        "## The page\n\n"
        f"Chromium {first['version']} on the same machine as the service, load {os.getloadavg()[0]:.1f}; 10 h and "
        f"{WORDS:,} words with word times and a recording, {JOBS:,} jobs; medians of {len(figures)} loads. Sizes are "
        "compressed.\n\n"
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)
    )


def _count(phrase: str) -> str:
    """Return the total of a phrase such as "1 of 4123"."""
    return f"{int(phrase.rpartition(' ')[2]):,}"


async def _fill(data: Path) -> Job:
    """Store finished jobs, and return the newest of them, which has 10 hours of text and a recording of silence."""
    spool = Spool(data)
    spool.open()
    journal = Journal(data / "journal.sqlite3", ServiceClock())
    journal.open()
    jobs = [_ended(number) for number in range(JOBS)]
    await asyncio.gather(*(journal.write(job) for job in jobs))
    short, long = replace(_transcript(), segments=_transcript().segments[:10]), _transcript()
    for job in jobs:
        spool.create_audio(job.id).close()
        spool.store_result(job.id, short, processing_time=1.0, durably=False)
    waveform = Waveform(duration=SECONDS, channels=(bytes(range(100, 200)) * (SECONDS * _PEAKS_PER_SECOND // 100),))
    spool.store_result(jobs[-1].id, long, processing_time=1.0, waveform=waveform, durably=False)
    _write_silence(spool.audio_path(jobs[-1].id))
    journal.close()
    spool.close()
    return jobs[-1]


def _ended(number: int) -> Job:
    at = time.time() - JOBS + number
    job = Job(
        id=f"{number:08d}-0000-4000-8000-000000000000",
        accepted_at=at,
        model="whisper-base",
        options=TranscriptionOptions(word_timestamps=True),
        rendering=Rendering(granularities=frozenset(Granularity)),
        name=f"Interview {number}.opus",
        keep_audio=number == JOBS - 1,
    )
    begun = replace(
        job.moved_to(JobStatus.PROCESSING, at=at), has_result=True, language="english", audio_duration=SECONDS
    )
    return begun.moved_to(JobStatus.COMPLETED, at=at + 0.5)


def _transcript() -> Transcript:
    choice = random.Random(1)  # noqa: S311  # no secret
    segments: list[Segment] = []
    step, count = SECONDS / WORDS, 0
    while count < WORDS:
        size = min(choice.randint(6, 14), WORDS - count)
        segments.append(_segment(len(segments), [_word(choice, (count + i) * step, step) for i in range(size)]))
        count += size
    return Transcript(task=Task.TRANSCRIBE, language="english", duration=SECONDS, segments=tuple(segments))


def _word(choice: random.Random, start: float, step: float) -> Word:
    text = " " + choice.choice(_VOCABULARY)
    return Word(
        word=text, start=round(start, 2), end=round(start + 0.9 * step, 2), probability=choice.betavariate(8, 1)
    )


def _segment(number: int, words: list[Word]) -> Segment:
    words[-1] = replace(words[-1], word=words[-1].word + ".")
    return Segment(
        id=number,
        seek=int(words[0].start * 100),
        start=words[0].start,
        end=words[-1].end,
        text="".join(word.word for word in words),
        tokens=tuple(range(300, 303 + len(words))),
        temperature=0.0,
        avg_logprob=-0.21,
        compression_ratio=1.4,
        no_speech_prob=0.01,
        words=tuple(words),
    )


def _write_silence(path: Path) -> None:
    """Write a WAV file, of which only the header takes space on the disk."""
    size = SECONDS * _SAMPLE_RATE
    header = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    header += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _SAMPLE_RATE, _SAMPLE_RATE, 1, 8)
    with path.open("wb") as file:
        file.write(header + struct.pack("<4sI", b"data", size))
        file.truncate(44 + size)


@contextmanager
def _browser(chromium: str, driver: str, folder: str) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={folder}/chromium"):
        options.add_argument(flag)
    browser = Chrome(options=options, service=Service(driver))
    try:
        browser.set_script_timeout(_LIMIT_SECONDS)
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH_LIST % JOBS})
        yield browser
    finally:
        browser.quit()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"The page did not show what is measured within {_LIMIT_SECONDS} s.")
        time.sleep(0.05)
