"""Failures of attempts: httpx's exceptions and unsuccessful statuses are translated into AttemptError."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import httpx

from app.delivery.retry import is_retryable_status, parse_retry_after
from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Iterator

_ERROR_BODY_BYTES: Final = 8192
_ERROR_BODY_SECONDS: Final = 5.0
_MARGIN_SECONDS: Final = 0.25
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>")
_CLOSED: Final = "Connection closed before a response"
_UNVERIFIED: Final = "Certificate verification failed"


class AttemptError(Exception):
    """An attempt failed. ``str()`` is a sentence without a full stop that contains no part of a URL.

    ``retry_after_seconds`` is the value of the Retry-After header, if there is one.
    """

    def __init__(self, message: str, *, retryable: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds


@contextmanager
def translated_failures(timeout: httpx.Timeout, *, on_close: str = _CLOSED, refusal: str = "refused") -> Iterator[None]:
    """Translate the exceptions of httpx into AttemptError.

    ``on_close`` is the message for a connection that was closed or reset. ``refusal`` precedes the reason for which a
    URL is refused. The cause is suppressed, since it can contain the URL.
    """
    try:
        yield
    except RefusedUrl as exc:
        raise AttemptError(f"{refusal}: {exc}", retryable=False) from None
    except httpx.TimeoutException as exc:
        raise AttemptError(_timeout_message(exc, timeout), retryable=True) from None
    except httpx.ConnectError as exc:
        raise _connect_failure(exc) from None
    except httpx.RemoteProtocolError as exc:
        is_closed = "closed" in str(exc) or "disconnected" in str(exc)
        raise AttemptError(on_close if is_closed else "Not an HTTP response", retryable=True) from None
    except httpx.NetworkError:
        raise AttemptError(on_close, retryable=True) from None
    except ssl.SSLError as exc:
        raise AttemptError(_tls_message(exc), retryable=True) from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:  # UnicodeError: the host is not a valid name
        raise AttemptError(f"The request could not be sent ({type(exc).__name__})", retryable=False) from None


async def rejection(response: httpx.Response, *, now: float) -> AttemptError:
    """Return the AttemptError for a response with a status outside 2xx, such as ``HTTP 503 SlowDown``.

    The store's code is read from at most 8 kB of the body, of which nothing else is kept. ``now`` is in Unix seconds.
    """
    code = response.headers.get("x-ms-error-code") or await _code_in_body(response)
    if code is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", code):
        code = None
    status = response.status_code
    return AttemptError(
        f"HTTP {status} {code}" if code else f"HTTP {status}",
        retryable=is_retryable_status(status, code),
        retry_after_seconds=parse_retry_after(response.headers.get("Retry-After"), now=now),
    )


def seconds_text(seconds: float) -> str:
    """Format seconds without a trailing ``.0``: ``30`` for 30.0, ``0.25`` for 0.25."""
    return f"{seconds:.0f}" if float(seconds).is_integer() else f"{seconds:g}"


def _timeout_message(exc: httpx.TimeoutException, timeout: httpx.Timeout) -> str:
    match exc:
        case httpx.ConnectTimeout():
            kind, seconds = "Connection", timeout.connect
        case httpx.ReadTimeout():
            kind, seconds = "Read", timeout.read
        case httpx.WriteTimeout():
            kind, seconds = "Write", timeout.write
        case _:
            kind, seconds = "Pool", timeout.pool
    return f"{kind} timeout after {seconds_text(seconds or 0.0)}s"


def _connect_failure(exc: httpx.ConnectError) -> AttemptError:
    # Take the first cause that is known: the chain can end in an exception that the caller was handling.
    for cause in _causes(exc):
        message = _connect_message(cause)
        if message is not None:
            return AttemptError(message, retryable=message != _UNVERIFIED)
    return AttemptError("Connection failed", retryable=True)


def _connect_message(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLCertVerificationError():
            return _UNVERIFIED
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return _CLOSED
        case anyio.EndOfStream() | anyio.BrokenResourceError() | ConnectionResetError():
            return _CLOSED
        case ssl.SSLError():
            return _tls_message(cause)
        case socket.gaierror() | UnicodeError():
            return "Could not resolve host"
        case ConnectionRefusedError():
            return "Connection refused"
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EADDRNOTAVAIL):
            return "Network unreachable"
    return None


def _tls_message(exc: ssl.SSLError) -> str:
    """Return a message with OpenSSL's name of the reason, such as ``TLS failure (WRONG_VERSION_NUMBER)``."""
    return f"TLS failure ({exc.reason})" if exc.reason else "TLS failure"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause = exc.__cause__ or exc.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


async def _code_in_body(response: httpx.Response) -> str | None:
    body = bytearray()
    # A body that breaks off, or that is slow until the attempt's deadline, must not replace the known status.
    deadline = min(anyio.current_time() + _ERROR_BODY_SECONDS, anyio.current_effective_deadline() - _MARGIN_SECONDS)
    with anyio.CancelScope(deadline=deadline):
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= _ERROR_BODY_BYTES:
                    break
        except (httpx.HTTPError, ssl.SSLError):
            pass
    match = _CODE.search(bytes(body[:_ERROR_BODY_BYTES]))
    return None if match is None else match[1].decode("ascii")
