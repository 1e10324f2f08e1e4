"""A page with a video and a subtitle track in a browser. All methods block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

_PAGE: Final = '<!doctype html><link rel="icon" href="data:,"><video><track kind="subtitles" default src="track.vtt">'

_CUES: Final = """
const [answer] = arguments
const element = document.querySelector('track')
const report = () => answer(element.readyState === HTMLTrackElement.LOADED ? cues() : null)
const cues = () => Array.from(element.track.cues, cue => {
  const shown = cue.getCueAsHTML()
  return {
    start: Math.round(cue.startTime * 1000),
    end: Math.round(cue.endTime * 1000),
    text: shown.textContent,
    underlined: Array.from(shown.querySelectorAll('u'), mark => mark.textContent),
  }
})
if (element.readyState >= HTMLTrackElement.LOADED) report()
else element.onload = element.onerror = report
"""


@dataclass(frozen=True, slots=True)
class Cue:
    """The text shown from ``start`` to ``end`` in milliseconds, and its underlined parts."""

    start: int
    end: int
    text: str
    underlined: tuple[str, ...] = ()


class VideoPage:
    """A server of the page, which opens it with one track after another."""

    def __init__(self, driver: WebDriver) -> None:
        self._driver = driver
        self._documents = {"/": ("text/html", _PAGE)}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self._documents))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def cues(self, vtt: str) -> list[Cue]:
        """Open the page with this track and return the cues that the browser has loaded."""
        self._documents["/track.vtt"] = ("text/vtt", vtt)
        self._driver.get(f"http://127.0.0.1:{self._server.server_port}/")
        cues: list[dict[str, Any]] | None = self._driver.execute_async_script(_CUES)
        assert cues is not None, f"the browser could not load this track:\n{vtt}"
        return [Cue(**{**cue, "underlined": tuple(cue["underlined"])}) for cue in cues]


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, documents: dict[str, tuple[str, str]], *args: Any) -> None:
        self._documents = documents
        super().__init__(*args)

    def do_GET(self) -> None:
        kind, text = self._documents[self.path]
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
