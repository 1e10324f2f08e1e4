"""The web page in a browser. All methods but ``show`` block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver
    from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")


class WebPage:
    """The page of the service at ``address``, in a tab without stored keys and options."""

    def __init__(self, driver: WebDriver, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self) -> None:
        self.forget()
        self.driver.get(f"{self.address}/")
        self.wait(lambda: self.all("h1"))

    def forget(self) -> None:
        """Clear what an earlier page of this address has stored, and the console."""
        self.driver.get(f"{self.address}/health")  # of the same origin, and shown at once
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.console_errors()

    async def show(self, visitor: Callable[[WebPage], T]) -> T:
        """Run a visitor, who blocks, in a thread."""
        return await asyncio.to_thread(visitor, self)

    def wait(self, find: Callable[[], T]) -> T:
        """Return the result of ``find()`` once it is true. Elements replaced meanwhile are looked for again."""
        waiting = WebDriverWait(
            self.driver, LIMIT_SECONDS, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        return waiting.until(lambda _: find())

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements that match a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return an element once it is there."""
        return self.wait(lambda: self.all(selector))[0]

    def button(self, label: str) -> WebElement:
        """Return the visible button with a text or an ``aria-label``, once it is there."""
        script = (
            "return [...document.querySelectorAll('button')].find(button => "
            "button.checkVisibility() && [button.textContent, button.ariaLabel].includes(arguments[0]))"
        )
        button: WebElement = self.wait(lambda: self.script(script, label))
        return button

    def choose(self, *paths: Path) -> None:
        """Choose files, as in the dialog of the operating system."""
        self.one("input[type=file]").send_keys("\n".join(str(path) for path in paths))

    def drop(self, name: str, content: str) -> None:
        """Drop a file with a name that the operating system need not allow."""
        self.script(
            "const transfer = new DataTransfer(); transfer.items.add(new File([arguments[1]], arguments[0]));"
            "const options = {dataTransfer: transfer, bubbles: true, cancelable: true};"
            "document.body.dispatchEvent(new DragEvent('drop', options))",
            name,
            content,
        )

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, in the element that has the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self) -> str:
        """Return the text of the element that has the focus."""
        return str(self.driver.switch_to.active_element.text)

    def rows(self) -> list[str]:
        """Return the rows of the list of recordings, with their lines separated by ``|``."""
        rows: list[str] = self.script(
            "return [...document.querySelectorAll('.jobs li')].map(row => "
            "[...row.querySelectorAll('.title, .facts')].map(line => line.textContent).join('|') || row.textContent)"
        )
        return rows

    def script(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def console_errors(self) -> list[str]:
        """Return the errors since the last call, reports of the Content Security Policy included."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # Selenium's own omission
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def log_in(self, key: str) -> None:
        """Type an API key into the dialog."""
        field = self.one("#key")
        field.clear()
        field.send_keys(key, Keys.ENTER)
