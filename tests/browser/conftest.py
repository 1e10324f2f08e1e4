"""A real browser, one for each file, that finds no other host than this machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.browser.docs_page import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # which root, in a container, can't have
    "--disable-dev-shm-usage",  # of which a container has little
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1400,1200",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
#: Longer than any answer takes; Selenium's own limits are minutes, longer than a test's.
_WAIT_SECONDS: Final = 30


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium. Its calls block: make them in a thread while a service runs in the test's loop."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = _options(chromium, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "*")
        driver = Chrome(options=options, service=Service(chromedriver))  # named, so that Selenium looks for none
    driver.set_page_load_timeout(_WAIT_SECONDS)
    driver.set_script_timeout(_WAIT_SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def _options(chromium: str, *more: str) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, *more):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return options
