"""Chromium, which can reach this machine only."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.browser.docs_page import HOST
from tests.support.waiting import LIMIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # unavailable to root in a container
    "--disable-dev-shm-usage",  # small in a container
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1400,1200",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--use-fake-ui-for-media-stream",  # and is allowed
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium, started once: that takes two seconds of a core."""
    with _chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(chromium: Chrome) -> Iterator[Chrome]:
    """Chromium. Its methods block, so call them in a thread while a service runs in the test's event loop."""
    yield chromium
    chromium.get("about:blank")  # no page goes on to look for its server


@pytest.fixture(scope="module")
def speaking_browser(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Iterator[Chrome]:
    """Chromium with a microphone into which ``hello.wav`` is spoken, again and again."""
    with _chromium(
        tmp_path_factory.mktemp("chromium"), f"--use-file-for-fake-audio-capture={samples / 'hello.wav'}"
    ) as driver:
        yield driver


@contextmanager
def _chromium(profile: Path, *flags: str) -> Iterator[Chrome]:
    """Run Chromium with further flags, or skip the test if there is none."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = _options(chromium, f"--user-data-dir={profile}", *flags)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "*")
        driver = Chrome(options=options, service=Service(chromedriver))  # without a path, Selenium downloads one
    driver.set_page_load_timeout(LIMIT_SECONDS)
    driver.set_script_timeout(LIMIT_SECONDS)
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
