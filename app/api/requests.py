"""Details of requests that FastAPI does not parse: headers, ``Idempotency-Key``, small bodies and disconnects."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from app.api.forms import URL_NAMES
from app.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.datastructures import Headers
    from starlette.types import Receive

    from app.api.multipart import ReceivedForm


#: This many digits always fit into 64 bits.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MAX_SMALL_BODY_BYTES: Final = 64 * 1024
#: The routes of whisper-asr-webservice, which are not under ``/v1``.
ASR_PATH: Final = "/asr"
LANGUAGE_PATH: Final = "/detect-language"


def is_limited(path: str) -> bool:
    """Return True if a path is one of the API: keys, rates and sizes count there."""
    return path.startswith("/v1/") or path in (ASR_PATH, LANGUAGE_PATH)


def content_length(headers: Headers) -> int | None:
    """Return the announced length of the body in bytes, or None."""
    return parse_number(headers.get("content-length"))


def parse_number(text: str | None) -> int | None:
    """Return the number that a header holds, or None if it is absent or something else."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def trace_context(headers: Headers) -> dict[str, str]:
    """Return the headers of W3C Trace Context, which name the client's trace."""
    return {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}


async def read_small_body(request: Request, *, max_bytes: int = _MAX_SMALL_BODY_BYTES) -> bytes:
    """Return a body of at most ``max_bytes``, by default 64 KiB.

    Raises:
        InvalidRequest: the body is larger.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise InvalidRequest(f"The body must have at most {max_bytes} bytes.")
    return bytes(body)


def parse_json_object(body: bytes, *, example: str, param: str | None = None) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises:
        InvalidRequest: it is something else. The message has the ``example``, and ``param`` is the field to blame.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object such as {example}.", param=param)
    return value


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


_MAX_KEY_LENGTH: Final = 255


def form_digest(form: ReceivedForm, operation: str, *, with_queries: bool = False) -> str:
    """Return a hash that is equal for forms of an operation with the same fields, in any order, and the same files.

    URLs are compared without their queries, which change with every signature, unless ``with_queries``.
    """
    fields: dict[str, list[str]] = {}
    for spelling, values in form.fields.items():
        name = spelling.removesuffix("[]")
        compared = values if with_queries or name not in URL_NAMES else [value.partition("?")[0] for value in values]
        fields.setdefault(name, []).extend(compared)
    written = json.dumps([operation, form.file_digest, fields, *form.reference_digests], sort_keys=True)
    return hashlib.blake2b(written.encode(), digest_size=32).hexdigest()


def idempotency_key(headers: Headers) -> str | None:
    """Return the client's key for the request, or None.

    Raises:
        InvalidRequest: the key is empty or too long.
    """
    key = headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"`Idempotency-Key` must have 1 to {_MAX_KEY_LENGTH} characters, got {len(key)}: use a UUID, for example.",
            code="invalid_idempotency_key",
        )
    return key


def is_replay(headers: Headers) -> bool:
    """Return True if OpenAI's SDK marks the request as a retry."""
    return bool(parse_number(headers.get("x-stainless-retry-count")))
