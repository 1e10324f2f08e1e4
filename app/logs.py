"""Log lines: for people or for machines, each with its job, none with a secret."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal

from app.domain.current import current_job
from app.domain.redaction import without_queries

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


class ConsoleFormatter(logging.Formatter):
    """``2026-11-23 23:14:52 INFO [4f0c… +1.2s] text``: the job, and the seconds since it was accepted."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        job = current_job.get()
        prefix = f"[{job.id} +{max(0.0, record.created - job.accepted_at):.1f}s] " if job else ""
        return without_queries(f"{stamp} {record.levelname:<7} {prefix}{_text(self, record)}")


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``message``, and the job's ``job_id`` and ``elapsed``."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_queries(record.getMessage()),
        }
        if job := current_job.get():
            entry["job_id"] = job.id
            entry["elapsed"] = round(max(0.0, record.created - job.accepted_at), 3)
        if record.exc_info:
            entry["exception"] = without_queries(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def _text(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


def configure(*, level: str, style: Literal["console", "json"]) -> None:
    """Sends everything of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTERERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
