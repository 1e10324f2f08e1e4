"""The page ``/docs`` in a browser. All methods block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

#: The service's host name in the browser. Swagger UI omits some of its requests on ``127.0.0.1``.
HOST: Final = "transcription"

T = TypeVar("T")

_OPERATIONS: Final = """
return [...document.querySelectorAll('.opblock')].filter(block => block.checkVisibility()).map(block => [
  block.querySelector('.opblock-summary-method').textContent.trim().toLowerCase(),
  block.querySelector('.opblock-summary-path').dataset.path]);
"""
_FIELDS: Final = """
return [...arguments[0].querySelectorAll('tr[data-property-name]')].map(row => [
  row.dataset.propertyName, row.querySelector('.renderedMarkdown').textContent.trim()]);
"""


@dataclass(frozen=True, slots=True)
class ShownResponse:
    """The response of the server as the page shows it."""

    status: str
    body: str


class DocsPage:
    """The documentation page of the service at ``address``."""

    def __init__(self, driver: WebDriver, address: str) -> None:
        self._driver = driver
        self.address = address.replace("127.0.0.1", HOST)

    def is_open(self) -> bool:
        return str(self._driver.current_url).startswith(f"{self.address}/docs")

    def open(self) -> None:
        self._driver.get(f"{self.address}/docs")
        self.wait(lambda: self._driver.find_elements(By.CLASS_NAME, "opblock"))

    def wait(self, find: Callable[[], T]) -> T:
        """Return the result of ``find()`` once it is true."""
        return WebDriverWait(self._driver, LIMIT_SECONDS, poll_frequency=0.05).until(lambda _: find())

    def script(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def loaded(self) -> set[str]:
        """Return the URLs of all resources of the page."""
        return set(self.script("return performance.getEntriesByType('resource').map(entry => entry.name)"))

    def console_errors(self) -> list[str]:
        """Return the errors since the last call."""
        entries = self._driver.get_log("browser")  # type: ignore[no-untyped-call]  # Selenium's own omission
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def operations(self) -> set[tuple[str, str]]:
        """Return method and path of each visible operation."""
        return {(method, path) for method, path in self.script(_OPERATIONS)}

    def operation(self, method: str, path: str) -> Operation:
        """Open an operation and return it."""
        block = self._driver.find_element(By.CSS_SELECTOR, f".opblock-{method}:has([data-path='{path}'])")
        if not block.find_elements(By.CLASS_NAME, "execute"):
            block.find_element(By.CLASS_NAME, "opblock-summary-control").click()
            self.wait(lambda: block.find_elements(By.CLASS_NAME, "execute"))
        return Operation(self, block)

    def authorize(self, key: str) -> None:
        self._driver.find_element(By.CSS_SELECTOR, ".auth-wrapper > .authorize").click()
        dialog = self.wait(lambda: self._driver.find_element(By.CLASS_NAME, "dialog-ux"))
        dialog.find_element(By.CSS_SELECTOR, "input").send_keys(key)
        dialog.find_element(By.CSS_SELECTOR, "button.authorize").click()
        dialog.find_element(By.CSS_SELECTOR, "button.btn-done").click()


class Operation:
    """An open operation of the page."""

    def __init__(self, page: DocsPage, block: WebElement) -> None:
        self._page = page
        self._block = block

    def fields(self) -> dict[str, str]:
        """Return the displayed description of each field of the form."""
        return dict(self._page.script(_FIELDS, self._block))

    def choose_file(self, file: Path) -> None:
        self._input("file", "input[type=file]").send_keys(str(file))

    def choose(self, field: str, value: str) -> None:
        Select(self._input(field, "select")).select_by_visible_text(value)

    def _input(self, field: str, selector: str) -> WebElement:
        return self._block.find_element(By.CSS_SELECTOR, f"tr[data-property-name={field}] {selector}")

    def execute(self) -> ShownResponse:
        for clear in self._block.find_elements(By.CLASS_NAME, "btn-clear"):
            clear.click()
        self._block.find_element(By.CLASS_NAME, "execute").click()
        shown = self._page.wait(lambda: self._block.find_elements(By.CLASS_NAME, "live-responses-table"))[0]
        return ShownResponse(_text(shown, ".response .response-col_status"), _text(shown, ".highlight-code code"))


def _text(within: WebElement, selector: str) -> str:
    """Return the text of an element with its line breaks, which Selenium's ``text`` loses in highlighted code."""
    return (within.find_element(By.CSS_SELECTOR, selector).get_attribute("textContent") or "").strip()
