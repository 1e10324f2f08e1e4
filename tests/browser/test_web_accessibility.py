"""The page's accessibility (WCAG 2.2 AA), measured with axe-core in both themes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.web_page import WebPage
from tests.clients.conftest import node_packages
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

    from app.transcription.whisper import WhisperModel

__all__ = ["node_packages"]

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="starts a browser and installs axe-core")]

_RULES: Final = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
_RUN_AXE: Final = """
const [rules, report] = arguments;
axe.run(document, {runOnly: rules}).then(({violations, passes}) => report([
  violations.map(({id, nodes}) => `${id}: ${nodes.map(node => node.html).join(' ')}`), passes.length]));
"""


class Audit:
    """The findings of axe-core in both themes, by view."""

    def __init__(self, page: WebPage, axe: Path) -> None:
        self._page = page
        self._axe = axe.read_text(encoding="utf-8")
        self.findings: dict[str, list[str]] = {}

    def check(self, view: str) -> None:
        # DevTools may add a script that the page's policy would refuse.
        self._page.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": self._axe})
        for theme in ("light", "dark"):
            self._page.script("localStorage.setItem('theme', arguments[0]); dispatchEvent(new Event('theme'))", theme)
            self._page.wait(
                lambda: self._page.script(
                    "return document.getAnimations().every(each => !isFinite(each.effect.getComputedTiming().endTime))"
                )
            )
            violations, passes = self._page.driver.execute_async_script(_RUN_AXE, _RULES)
            assert passes > 0
            self.findings[f"{view}, {theme}"] = violations


def visit_start(page: WebPage, audit: Audit, samples: Path) -> None:
    page.open()
    audit.check("start")
    page.script("document.querySelector('summary').click()")
    page.choose(samples / "hello.wav", samples / "references.json")
    page.button("Transcribe 2 recordings")
    audit.check("staged")
    page.button("Transcribe 2 recordings").click()
    page.wait(lambda: [row for row in page.rows() if "just now" in row][1:])
    audit.check("list")


def visit_dialogs(page: WebPage, audit: Audit, _samples: Path) -> None:
    page.open()
    page.one(".state").click()
    audit.check("server")
    page.script("document.querySelector('.details').hidePopover()")
    page.button("Keyboard shortcuts").click()
    page.one("dialog")
    audit.check("shortcuts")
    page.button("Close").click()
    page.button("Record").click()
    page.one(".recorder")
    audit.check("recorder")
    page.button("Discard").click()


def visit_job(page: WebPage, audit: Audit, samples: Path) -> None:
    page.open()
    page.choose(samples / "hello.wav")
    page.button("Transcribe").click()
    page.wait(lambda: page.all(".transcript p"))
    audit.check("job")


def visit_speakers(page: WebPage, audit: Audit, samples: Path) -> None:
    page.open()
    page.wait(lambda: page.all("#speakers option[value=voices]"))
    page.one("#speakers").send_keys("By their voices")
    page.one("#speaker-count")
    audit.check("options of speakers")
    page.choose(samples / "two_speakers_stereo.flac")
    page.button("Transcribe").click()
    page.button("Download")
    audit.check("speakers")
    page.one(".speaker").click()
    page.wait(lambda: page.all("#speaker-name:focus"))
    audit.check("naming")
    page.press("Zoë", Keys.ENTER)
    page.one(".badge")
    audit.check("named")


@pytest.mark.parametrize(
    "visit", [visit_start, visit_dialogs, visit_job, visit_speakers], ids=["start", "dialogs", "job", "speakers"]
)
async def test_views_have_no_findings(
    browser: Chrome,
    tmp_path: Path,
    model: WhisperModel,
    samples: Path,
    node_packages: Path,
    visit: Callable[[WebPage, Audit, Path], None],
) -> None:
    async with serving(tmp_path / "data", lambda: model) as running:
        page = WebPage(browser, running.address)
        audit = Audit(page, node_packages / "axe-core" / "axe.min.js")
        await page.show(lambda page: visit(page, audit, samples))
    assert {view: findings for view, findings in audit.findings.items() if findings} == {}
    assert audit.findings


async def test_key_dialog_has_no_findings(
    browser: Chrome, tmp_path: Path, model: WhisperModel, node_packages: Path
) -> None:
    def visit(page: WebPage, audit: Audit) -> None:
        page.open()
        page.log_in("sk-wrong")
        page.wait(lambda: page.one("#key-problem").text)
        audit.check("key")

    async with serving(tmp_path / "data", lambda: model, api_keys="sk-right") as running:
        page = WebPage(browser, running.address)
        audit = Audit(page, node_packages / "axe-core" / "axe.min.js")
        await page.show(lambda page: visit(page, audit))
    assert audit.findings == {"key, light": [], "key, dark": []}
