"""Log lines: for people or for machines, each with its job, none with a secret."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from app.domain.log_context import current_job
from app.domain.redaction import without_queries

if TYPE_CHECKING:
    from types import TracebackType

#: These write whole URLs at INFO.
_CHATTERERS: Final = (
    "httpx",
    "httpcore",
    "httpx2",
    "httpcore2",
    "faster_whisper",
    "huggingface_hub",
    "urllib3",
)
#: What anybody can have uvicorn say, as often as he likes.
_CHEAP: Final = ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")
_CHEAP_SECONDS: Final = 10.0
#: What could end a line, move the cursor of a terminal, or turn text around: control characters, the separators of
#: lines and paragraphs, marks of direction (Unicode's Bidi_Control), invisible ones, and halves of surrogate pairs.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
#: Before each line of a trace, so that none can be taken for a line of the log.
_TRACE_INDENT: Final = "    | "


def printable(text: str) -> str:
    """``text`` in one line, with every character that could forge another one written out: ``\\x1b``, ``\\u202e``."""
    return _UNSAFE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(match[0])
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class NowAndThen(logging.Filter):
    """Lets what costs nobody anything to cause through, but not more often than every 10 s each."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for beginning in _CHEAP:
            if text.startswith(beginning):
                if record.created - self._said_at.get(beginning, -_CHEAP_SECONDS) < _CHEAP_SECONDS:
                    return False
                self._said_at[beginning] = record.created
        return True


class ConsoleFormatter(logging.Formatter):
    """``2026-11-23 23:14:52 INFO [4f0c… +1.2s] text``: the job, and the seconds since it was accepted."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        job = current_job.get()
        prefix = f"[{job.id} +{max(0.0, record.created - job.accepted_at):.1f}s] " if job else ""
        line = f"{stamp} {record.levelname:<7} {prefix}{_safe(record.getMessage())}"
        if record.exc_info:
            trace = without_queries(self.formatException(record.exc_info))
            line += "".join(f"\n{_TRACE_INDENT}{printable(one)}" for one in trace.split("\n"))
        return line


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``message``, and the job's ``job_id`` and ``elapsed``."""

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
        if record.exc_info:
            trace = without_queries(self.formatException(record.exc_info))
            entry["exception"] = "\n".join(map(printable, trace.split("\n")))
        return json.dumps(entry, ensure_ascii=False)


def _safe(message: str) -> str:
    return printable(without_queries(message.rstrip("\n")))


def configure(*, level: str, style: Literal["console", "json"]) -> None:
    """Sends everything of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTERERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn.error").filters[:] = [NowAndThen()]
    logging.captureWarnings(True)  # noqa: FBT003  # as it is spelt there
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What nobody caught, as a line like all others."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("app").critical("Uncaught %s", kind.__name__, exc_info=(kind, exc, trace))


def _log_uncaught_in_thread(args: Any) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
