"""Log lines in both formats: they name their job and contain no secrets."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.log_context import CurrentJob, current_job
from app.domain.redaction import without_queries
from app.logs import ConsoleFormatter, JsonFormatter, configure, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = "https://bucket.example/key?X-Amz-Credential=secret&X-Amz-Signature=secret"
CUT = "https://bucket.example/key?…"
NOISY_LOGGERS = ("httpx", "httpcore", "urllib3", "huggingface_hub", "faster_whisper")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo the changes of ``configure`` to the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in (*NOISY_LOGGERS, "httpx2", "httpcore2")}
    hooks = sys.excepthook, threading.excepthook
    filters = logging.getLogger("uvicorn.error").filters[:]
    yield
    logging.getLogger("uvicorn.error").filters[:] = filters
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)  # noqa: FBT003  # the standard library's signature
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def record(text: str, *args: object, level: int = logging.INFO, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("app.jobs.runner", level, __file__, 1, text, args, info)


def for_job(format_line: Callable[[], str], *, seconds_ago: float) -> str:
    """Return the result of ``format_line`` while a job is the current one."""
    context = contextvars.copy_context()
    context.run(current_job.set, CurrentJob("4f0c", time.time() - seconds_ago))
    return context.run(format_line)


def fail(text: str) -> None:
    cause = ConnectionError(f"PUT {URL} was refused")
    raise ValueError(text) from cause


def raised(text: str) -> Exception:
    try:
        fail(text)
    except ValueError as exc:
        return exc
    raise AssertionError


def test_console_line_has_time_level_and_message() -> None:
    line = ConsoleFormatter().format(record("Model %s ready", "small", level=logging.WARNING))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING +Model small ready", line)


def test_console_line_has_job_id_and_elapsed_seconds() -> None:
    line = for_job(lambda: ConsoleFormatter().format(record("💾 stored")), seconds_ago=83.24)
    assert re.search(r" INFO +\[4f0c \+83\.2s\] 💾 stored$", line), line


def test_elapsed_time_is_never_negative() -> None:
    line = for_job(lambda: ConsoleFormatter().format(record("x")), seconds_ago=-60)
    assert "[4f0c +0.0s] x" in line


def test_json_line_is_one_object_with_job_fields() -> None:
    line = for_job(lambda: JsonFormatter().format(record("Über\n%s", "x")), seconds_ago=83.24)
    assert "\n" not in line
    assert "Über" in line
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", entry.pop("time"))
    assert entry.pop("elapsed") == pytest.approx(83.24, abs=0.1)
    assert entry == {"level": "INFO", "logger": "app.jobs.runner", "message": "Über\\nx", "job_id": "4f0c"}


def test_json_line_without_a_job_has_no_job_fields() -> None:
    assert json.loads(JsonFormatter().format(record("x"))).keys() == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
def test_queries_are_removed_from_messages_and_tracebacks(formatter: logging.Formatter) -> None:
    log_record = record("Fetching %s", URL, level=logging.ERROR, error=raised(f"no answer from '{URL}'"))
    line = formatter.format(log_record)
    assert "secret" not in line
    assert line.count(CUT) == 3
    assert "Traceback (most recent call last)" in line
    assert "ConnectionError" in line
    assert "ValueError: no answer" in line


def test_json_line_has_the_traceback_in_a_field() -> None:
    entry = json.loads(JsonFormatter().format(record("It broke", error=raised("no"))))
    assert entry["message"] == "It broke"
    assert "Traceback (most recent call last)" in entry["exception"]
    assert entry["exception"].endswith("ValueError: no")


@pytest.mark.parametrize("style", ["console", "json"])
def test_lines_of_the_configured_level_go_to_standard_error(
    style: Literal["console", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(level="INFO", style=style)
    logging.getLogger("app.jobs").info("📤 %s", URL)
    logging.getLogger("app.jobs").debug("too quiet")
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    assert CUT in line
    assert line.startswith("{") == (style == "json")


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
@pytest.mark.parametrize("name", NOISY_LOGGERS)
def test_libraries_that_log_urls_are_silenced(name: str, level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(level=level, style="console")
    logger = logging.getLogger(name)
    logger.info('HTTP Request: PUT %s "HTTP/1.1 200 OK"', URL)
    logger.debug("headers")
    assert capsys.readouterr().err == ""
    logger.warning("heard")
    assert "heard" in capsys.readouterr().err


def test_libraries_are_not_more_verbose_than_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="ERROR", style="console")
    logging.getLogger("httpx").warning("unheard")
    assert capsys.readouterr().err == ""


def test_configuration_replaces_the_previous_one(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="INFO", style="console")
    configure(level="INFO", style="json")
    logging.getLogger("app").info("once")
    (line,) = capsys.readouterr().err.splitlines()
    entry: dict[str, Any] = json.loads(line)
    assert entry["message"] == "once"


def test_logged_exception_has_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="INFO", style="console")
    try:
        fail(URL)
    except ValueError:
        logging.getLogger("app").exception("It broke")
    output = capsys.readouterr().err
    assert f"ValueError: {CUT}\n" in output
    assert "secret" not in output


#: Texts that try to forge log lines or to control a terminal.
FORGERIES = (
    "a.wav\n2026-11-25 03:00:00 INFO    All is well",
    "a.wav\r\n2026-11-25 03:00:00 CRITICAL gone",
    "\x1b[2J\x1b[1;31mred\x1b]0;title\x07",
    "\x9b31m\x85\u2028\u2029",
    "\u202egnp.exe\u202c \u2066hidden\u2069 \u200f\u061c",
    "\ud800 half a pair, \ufeff and \u200b nothing",
    "\x00\x08\x7f",
)


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("formatter", [ConsoleFormatter(), JsonFormatter()])
def test_forged_lines_and_control_sequences_are_escaped(formatter: logging.Formatter, forgery: str) -> None:
    line = formatter.format(record("Job %s failed: %s", "4f0c", forgery, level=logging.ERROR))
    assert line == printable(line)
    assert len(line.splitlines()) == 1
    if isinstance(formatter, JsonFormatter):
        assert json.loads(line)["message"] == printable(f"Job 4f0c failed: {forgery}")


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_lines_in_tracebacks_are_escaped(forgery: str) -> None:
    first, *rest = ConsoleFormatter().format(record("It broke", error=raised(forgery))).split("\n")
    assert first.endswith("It broke")
    assert all(line.startswith("    | ") for line in rest)
    assert all(line == printable(line) for line in rest)
    line = JsonFormatter().format(record("It broke", error=raised(forgery)))
    assert len(line.splitlines()) == 1
    assert all(line == printable(line) for line in json.loads(line)["exception"].split("\n"))


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = printable(text)
    assert len(line.splitlines()) <= 1
    assert printable(line) == line
    assert json.loads(JsonFormatter().format(record("%s", text)))["message"] == printable(
        without_queries(text.rstrip("\n"))
    )


def test_umlauts_and_emoji_are_not_escaped() -> None:
    text = "🎙️ Überraschung – 日本語 ⚠️ ♻️"
    assert printable(text) == text


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer sk-secret-secret",
        "whsec_c2VjcmV0c2VjcmV0c2VjcmV0",
        "https://user:secret@b.example/key",
        "query X-Amz-Signature=secret&x=1",
        "AWSAccessKeyId=secret",
        "?sv=2024&sig=secret%3D",
        "X-Goog-Signature=secret",
        "x-amz-security-token=secret",
    ],
)
def test_known_secrets_are_removed(secret: str) -> None:
    for formatter in (ConsoleFormatter(), JsonFormatter()):
        line = formatter.format(record("%s", secret, error=raised(secret)))
        assert "…" in line
        assert "=secret" not in line
        assert ":secret@" not in line
        assert "whsec_c" not in line
        assert "sk-secret" not in line


def test_uncaught_exceptions_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="INFO", style="json")
    error = raised(URL)
    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=lambda: fail(URL))
    thread.start()
    thread.join()
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    for entry in (first, second):
        assert entry["message"] == "Uncaught ValueError"
        assert CUT in entry["exception"]
        assert "secret" not in entry["exception"]


@pytest.mark.parametrize("text", ["Invalid HTTP request received.", "Unsupported upgrade request."])
def test_messages_that_clients_can_cause_are_rate_limited(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="INFO", style="console")
    for _ in range(100):
        logging.getLogger("uvicorn.error").warning(text)
    logging.getLogger("uvicorn.error").warning("Something else")
    logging.getLogger("uvicorn.error").warning("Something else")
    assert [line.partition("WARNING ")[2] for line in capsys.readouterr().err.splitlines()] == [
        text,
        "Something else",
        "Something else",
    ]
