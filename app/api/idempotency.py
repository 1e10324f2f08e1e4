"""Identity of requests: the ``Idempotency-Key`` of a client, and the comparison of a replay with its original."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from app.api.forms import URL_NAMES
from app.api.requests import parse_number
from app.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from app.api.multipart import ReceivedForm
    from app.domain.transcript import Task

_MAX_KEY_LENGTH: Final = 255


def form_digest(form: ReceivedForm, task: Task, *, with_queries: bool = False) -> str:
    """Return a hash that is equal for forms with the same fields, in any order, and the same file.

    URLs are compared without their queries, which change with every signature, unless ``with_queries``.
    """
    fields: dict[str, list[str]] = {}
    for name, values in form.fields.items():
        compared = values if with_queries or name not in URL_NAMES else [value.partition("?")[0] for value in values]
        fields.setdefault(name.removesuffix("[]"), []).extend(compared)
    written = json.dumps([task.value, form.file_digest, fields], sort_keys=True)
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
