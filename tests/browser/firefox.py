"""Firefox, driven by WebDriver BiDi, which it speaks itself: geckodriver is not needed."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from selenium.webdriver.common.bidi.browsing_context import BrowsingContext
from selenium.webdriver.common.bidi.input import Input
from selenium.webdriver.common.bidi.script import Script
from selenium.webdriver.common.bidi.session import Session
from selenium.webdriver.remote.websocket_connection import WebSocketConnection

from tests.support.waiting import LIMIT_SECONDS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LISTENING: Final = re.compile(r"WebDriver BiDi listening on (ws://\S+)")
#: Collects what the Content Security Policy refuses, and errors of scripts, of every page from its beginning.
_COLLECT_PROBLEMS: Final = """() => {
  window.problems = [];
  addEventListener("securitypolicyviolation", (event) => window.problems.push(`refused: ${event.blockedURI}`));
  addEventListener("error", (event) => window.problems.push(event.message));
}"""


class Firefox:
    """A tab of Firefox. All methods block."""

    def __init__(self, address: str) -> None:
        connection = WebSocketConnection(f"{address}/session", LIMIT_SECONDS, 0.02)  # type: ignore[no-untyped-call]  # Selenium's own omission
        self._connection = connection
        Session(connection).new({})
        self._contexts = BrowsingContext(connection)
        self._scripts = Script(connection)
        self._input = Input(connection)
        (tab,) = self._contexts.get_tree()
        self._tab = tab.context
        self._scripts.add_preload_script(_COLLECT_PROBLEMS)

    def close(self) -> None:
        self._connection.close()  # type: ignore[no-untyped-call]  # likewise

    def open(self, url: str) -> None:
        self._contexts.navigate(self._tab, url, wait="complete")

    def reload(self) -> None:
        self._contexts.reload(self._tab, wait="complete")

    def run(self, body: str, *arguments: str) -> Any:
        """Return the JSON value of a function's body in JavaScript, which gets ``arguments``."""
        function = f"(...values) => JSON.stringify([((...arguments) => {{ {body} }})(...values)])"
        returned = self._scripts.execute(function, *arguments, context_id=self._tab)
        return json.loads(returned["value"])[0]

    def until(self, body: str, *arguments: str) -> Any:
        """Return the value of a function's body once it is true."""
        value: Any = None

        def is_true() -> bool:
            nonlocal value
            value = self.run(body, *arguments)
            return bool(value)

        wait_until(is_true, pause=0.05)
        return value

    def choose(self, file: Path) -> None:
        """Choose a file in the page's only field for files."""
        (node,) = self._contexts.locate_nodes(self._tab, {"type": "css", "value": "input[type=file]"})
        self._input.set_files(self._tab, {"sharedId": node["sharedId"]}, [str(file)])

    def click(self, x: float, y: float) -> None:
        """Click a place in the window, in CSS pixels."""
        steps = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._input.perform_actions(self._tab, [{"type": "pointer", "id": "mouse", "actions": steps}])

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        steps = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._input.perform_actions(self._tab, [{"type": "key", "id": "keyboard", "actions": steps}])


@contextmanager
def firefox(program: str, profile: Path) -> Iterator[Firefox]:
    """Run Firefox without a window, with a profile of its own, until the block ends."""
    command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    environment = {"HOME": str(profile), "PATH": "/usr/bin:/bin", "MOZ_HEADLESS_WIDTH": "1400"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        assert process.stderr
        try:
            lines = (line.decode(errors="replace") for line in process.stderr)
            listening = next(match for line in lines if (match := _LISTENING.search(line)))
            browser = Firefox(listening[1])
            yield browser
            browser.close()
        finally:
            process.kill()
