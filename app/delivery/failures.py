"""What went wrong with one attempt, in a sentence: every failure of httpx gets a name of ours."""

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
_CLOSED: Final = "Connection closed before an answer"
_UNVERIFIED: Final = "Certificate verification failed"


class AttemptError(Exception):
    """One attempt failed. ``str()`` is a sentence without full stop, and without any part of a URL.

    ``retry_after_seconds`` is what the other side asked for, if it did.
    """

    def __init__(self, sentence: str, *, retryable: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds


@contextmanager
def translated_failures(timeout: httpx.Timeout, *, on_close: str = _CLOSED, refusal: str = "refused") -> Iterator[None]:
    """Turn what httpx raises inside into AttemptError.

    ``on_close`` names a connection that breaks off, ``refused`` stands before why a target is refused. The
    cause is dropped, for it may print the URL.
    """
    try:
        yield
    except RefusedUrl as exc:
        raise AttemptError(f"{refusal}: {exc}", retryable=False) from None
    except httpx.TimeoutException as exc:
        raise AttemptError(_timeout_sentence(exc, timeout), retryable=True) from None
    except httpx.ConnectError as exc:
        raise _connect_failure(exc) from None
    except httpx.RemoteProtocolError as exc:
        broken_off = "closed" in str(exc) or "disconnected" in str(exc)
        raise AttemptError(on_close if broken_off else "Not an HTTP answer", retryable=True) from None
    except httpx.NetworkError:
        raise AttemptError(on_close, retryable=True) from None
    except ssl.SSLError as exc:
        raise AttemptError(_tls_sentence(exc), retryable=True) from None
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:  # UnicodeError: a host that is no name
        raise AttemptError(f"The request could not be sent ({type(exc).__name__})", retryable=False) from None


async def rejection(response: httpx.Response, *, now: float) -> AttemptError:
    """The failure that a status outside 2xx is: ``HTTP 503 SlowDown``.

    The code comes from at most 8 kB of the body, of which nothing else is kept. ``now`` is in Unix seconds.
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
    """``30`` for 30.0, ``0.25`` for 0.25."""
    return f"{seconds:.0f}" if float(seconds).is_integer() else f"{seconds:g}"


def _timeout_sentence(exc: httpx.TimeoutException, timeout: httpx.Timeout) -> str:
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
    # The nearest cause that has a name counts: the chain goes on to whatever the caller was handling.
    for cause in _causes(exc):
        sentence = _connect_sentence(cause)
        if sentence is not None:
            return AttemptError(sentence, retryable=sentence != _UNVERIFIED)
    return AttemptError("Connection failed", retryable=True)


def _connect_sentence(cause: BaseException) -> str | None:
    match cause:
        case ssl.SSLCertVerificationError():
            return _UNVERIFIED
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return _CLOSED
        case anyio.EndOfStream() | anyio.BrokenResourceError() | ConnectionResetError():
            return _CLOSED
        case ssl.SSLError():
            return _tls_sentence(cause)
        case socket.gaierror() | UnicodeError():
            return "Could not resolve host"
        case ConnectionRefusedError():
            return "Connection refused"
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH | errno.EADDRNOTAVAIL):
            return "Network unreachable"
    return None


def _tls_sentence(exc: ssl.SSLError) -> str:
    """With the name that OpenSSL has for the reason: ``TLS failure (WRONG_VERSION_NUMBER)``."""
    return f"TLS failure ({exc.reason})" if exc.reason else "TLS failure"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause = exc.__cause__ or exc.__context__
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


async def _code_in_body(response: httpx.Response) -> str | None:
    body = bytearray()
    # The status is known already: a body that breaks off, or drips until the attempt's deadline, changes nothing.
    end = min(anyio.current_time() + _ERROR_BODY_SECONDS, anyio.current_effective_deadline() - _MARGIN_SECONDS)
    with anyio.CancelScope(deadline=end):
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) >= _ERROR_BODY_BYTES:
                    break
        except (httpx.HTTPError, ssl.SSLError):
            pass
    match = _CODE.search(bytes(body[:_ERROR_BODY_BYTES]))
    return None if match is None else match[1].decode("ascii")
