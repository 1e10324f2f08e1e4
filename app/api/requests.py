"""Details of requests that FastAPI does not parse: headers, small bodies and disconnects."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from app.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.datastructures import Headers
    from starlette.types import Receive

#: This many digits always fit into 64 bits.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MAX_SMALL_BODY_BYTES: Final = 64 * 1024


def content_length(headers: Headers) -> int | None:
    """Return the announced length of the body in bytes, or None."""
    return parse_number(headers.get("content-length"))


def parse_number(text: str | None) -> int | None:
    """Return the number that a header holds, or None if it is absent or something else."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def trace_context(headers: Headers) -> dict[str, str]:
    """Return the headers of W3C Trace Context, which name the client's trace."""
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


async def read_small_body(request: Request) -> bytes:
    """Return a body of at most 64 KiB.

    Raises:
        InvalidRequest: the body is larger.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_SMALL_BODY_BYTES:
            raise InvalidRequest(f"The body must have at most {_MAX_SMALL_BODY_BYTES} bytes.")
    return bytes(body)


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
