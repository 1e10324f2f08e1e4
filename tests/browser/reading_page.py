"""The view of a job in a browser, whose methods block, and how tests in the event loop of a service read it."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.browser.web_page import WebPage
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.transcription.whisper import WhisperModel
    from tests.support.service import Running

T = TypeVar("T")
Page = TypeVar("Page", bound="ReadingPage")

#: The middle of a word, in pixels of the window.
MIDDLE_OF_WORD = """
const [sought] = arguments;
for (const text of document.querySelectorAll(".paragraph p")) {
  const from = text.textContent.indexOf(sought);
  if (from < 0) continue;
  text.scrollIntoView({ block: "center" });
  const range = document.createRange();
  range.setStart(text.firstChild, from);
  range.setEnd(text.firstChild, from + sought.length);
  const { left, top, width, height } = range.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
}
"""
HIGHLIGHTED = """
const textOf = ({ startContainer, startOffset, endOffset }) => startContainer.data.slice(startOffset, endOffset);
return [...CSS.highlights.get(arguments[0])].map(textOf)
"""


class ReadingPage(WebPage):
    """The page at the view of one job."""

    def show_job(self, job_id: str) -> None:
        """Load the view again, with its text."""
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}/#/jobs/{job_id}")
        self.wait(self.paragraphs)

    def paragraphs(self) -> list[str]:
        texts: list[str] = self.script(
            "return [...document.querySelectorAll('.paragraph p')].map((text) => text.textContent)"
        )
        return texts

    def text(self) -> str:
        return "\n".join(self.paragraphs())

    def click_word(self, word: str, *, times: int = 1) -> None:
        x, y = self.script(MIDDLE_OF_WORD, word)
        actions = ActionChains(self.driver, duration=0)
        pointer = actions.w3c_actions.pointer_action
        pointer.move_to_location(int(x), int(y))  # type: ignore[no-untyped-call]  # Selenium's own omission
        for _ in range(times):
            pointer.click()
        actions.perform()

    def double_click_word(self, word: str) -> None:
        self.click_word(word, times=2)

    def play_and_pause(self) -> None:
        """Start the player and pause it: from then on a click on a word only goes there."""
        for label in ("Pause", "Play"):
            self.key(" ")
            self.wait(lambda label=label: self.one(".play").get_attribute("aria-label") == label)  # type: ignore[misc]

    def highlighted(self, name: str) -> list[str]:
        """Return the texts that are highlighted as ``spoken``, ``match``, ``found`` or ``doubt``."""
        texts: list[str] = self.script(HIGHLIGHTED, name)
        return texts

    def can_play(self) -> bool:
        return bool(self.script("return document.querySelector('video')?.readyState > 0"))

    @property
    def seconds(self) -> float:
        return float(self.script("return document.querySelector('video').currentTime"))

    def correct(self, word: str, correction: str) -> None:
        """Replace a word of a paragraph that is being edited, and wait until that is saved."""
        self.click_word(word)
        self.script(
            "const selection = getSelection(), node = selection.anchorNode, from = node.data.indexOf(arguments[0]);"
            "selection.setBaseAndExtent(node, from, node, from + arguments[0].length)",
            word,
        )
        self.press(correction)
        self.wait_until_saved()

    def wait_until_saved(self) -> None:
        self.wait(lambda: self.one(".saving").text == "Saved")

    def download(self, label: str, folder: Path) -> bytes:
        """Choose a format of the download menu, and return the file."""
        before = set(folder.iterdir())
        self.button("Download").click()
        item = self.wait(lambda: [each for each in self.all("[role=menuitem]") if each.text.startswith(label)])
        item[0].click()
        files = self.wait(lambda: [each for each in set(folder.iterdir()) - before if _is_complete(each)])
        return files[0].read_bytes()

    def key(self, key: str) -> None:
        """Press a key while nothing has the focus."""
        self.script("document.activeElement.blur()")
        self.press(key)

    def edit(self) -> None:
        """Make the text editable."""
        self.key("e")
        self.wait(lambda: self.all("[contenteditable]"))

    def leave_editing(self) -> None:
        self.press(Keys.ESCAPE)


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job of a service that has ended, which other services can have in their own folders."""

    id: str
    data: Path

    def copy_to(self, data: Path) -> None:
        """Give a service that is not started yet the job."""
        shutil.copytree(self.data, data)


async def finish_job(folder: Path, model: WhisperModel, file: Path, **fields: Any) -> FinishedJob:
    """Run a service in ``folder`` until a job has ended, which takes longer than to copy it for each test."""
    data = folder / "data"
    async with serving(data, lambda: model) as running:
        job_id = await running.submit(file, **fields)
        await running.finished(job_id)
    return FinishedJob(job_id, data)


def _is_complete(file: Path) -> bool:
    """Return whether a download has ended. Chromium makes an empty file with its name at first."""
    return file.suffix != ".crdownload" and file.stat().st_size > 0


async def read_job(page: Page, job_id: str, reader: Callable[[Page], T]) -> T:
    """Return what a reader, who blocks, brings from the view of a job. Check that the console shows no errors."""

    def visit() -> tuple[T, list[str]]:
        page.forget()
        page.show_job(job_id)
        return reader(page), page.console_errors()

    seen, errors = await asyncio.to_thread(visit)
    assert errors == []
    return seen


async def result(running: Running, job_id: str, response_format: str = "document") -> bytes:
    """Return the stored result of a job."""
    response = await running.client.get(f"/v1/jobs/{job_id}/result", params={"response_format": response_format})
    assert response.status_code == 200, response.text
    return response.content
