"""Log formats for people and for machines. Lines name their job and contain no secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from app.domain.log_context import current_job, current_request
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from types import TracebackType

#: Loggers that write whole URLs at INFO, or a line for each connection.
_NOISY_LOGGERS: Final = (
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "faster_whisper",
    "huggingface_hub",
    "urllib3",
    "uvicorn.websocket",
    "websockets",
)
#: Messages of uvicorn that any client can cause, as often as it likes.
_LIMITED_MESSAGES: Final = ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")
_LIMIT_SECONDS: Final = 10.0
#: Characters that could end a line, move the cursor of a terminal or reverse text: control characters, line and
#: paragraph separators, Unicode's Bidi_Control, invisible characters, and lone surrogates.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
#: Precedes each line of a traceback, so that it can't be mistaken for a log line.
_TRACE_INDENT: Final = "    | "


def printable(text: str) -> str:
    """Return ``text`` with all characters that could forge a log line escaped, such as ``\\x1b`` or ``\\u202e``."""
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class MessageRateLimit(logging.Filter):
    """A filter that lets each of ``_LIMITED_MESSAGES`` pass once in 10 s."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for prefix in _LIMITED_MESSAGES:
            if message.startswith(prefix):
                if record.created - self._logged_at.get(prefix, -_LIMIT_SECONDS) < _LIMIT_SECONDS:
                    return False
                self._logged_at[prefix] = record.created
        return True


class ConsoleFormatter(logging.Formatter):
    """The format ``2026-11-23 23:14:52 INFO [4f0c… +1.2s] text``, with the job and the seconds since its acceptance.

    A line of a request without a job has the id of the request instead.
    """

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        prefix = ""
        if job := current_job.get():
            prefix = f"[{job.id} +{max(0.0, record.created - job.accepted_at):.1f}s] "
        elif request := current_request.get():
            prefix = f"[{request.id}] "
        line = f"{stamp} {record.levelname:<7} {prefix}{_safe(record.getMessage())}"
        if record.exc_info:
            trace = without_queries(self.formatException(record.exc_info))
            line += "".join(f"\n{_TRACE_INDENT}{printable(text)}" for text in trace.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``message``, and ``job_id`` and ``elapsed`` of a job.

    ``request_id``, and ``client_request_id`` if the client sent one, are those of the request that the line is about.
    ``exception`` holds a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _safe(record.getMessage()),
        }
        if job := current_job.get():
            entry["job_id"] = job.id
            entry["elapsed"] = round(max(0.0, record.created - job.accepted_at), 3)
        if request := (job and job.request) or current_request.get():
            entry["request_id"] = request.id
            if request.client_id is not None:
                entry["client_request_id"] = _safe(request.client_id)
        if record.exc_info:
            trace = without_queries(self.formatException(record.exc_info))
            entry["exception"] = "\n".join(map(printable, trace.split("\n")))
        return json.dumps(entry, ensure_ascii=False)


def _safe(message: str) -> str:
    return printable(without_queries(message.rstrip("\n")))


def configure(*, level: str, style: Literal["console", "json"]) -> None:
    """Log records of ``level`` and above to standard error, and uncaught exceptions too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.error").filters[:] = [MessageRateLimit()]
    logging.captureWarnings(True)  # noqa: FBT003  # the standard library's signature
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """Log an uncaught exception."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("app").critical("Uncaught %s", kind.__name__, exc_info=(kind, exc, trace))


def _log_uncaught_in_thread(args: Any) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
