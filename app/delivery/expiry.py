"""Until when a presigned URL holds, read from its query's parameters (their names in lower case)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from app.domain.errors import RefusedUrl

if TYPE_CHECKING:
    from collections.abc import Mapping

_BASIC_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_SIGNERS: Final = frozenset({"awsaccesskeyid", "googleaccessid", "key-pair-id"})


def expiry_in(parameters: Mapping[str, str], *, param: str) -> float | None:
    """The end in Unix seconds; None if there is none.

    Raises:
        RefusedUrl: a date or number of a signed URL can't be read.
    """
    for prefix in ("X-Amz-", "X-Goog-"):
        if parameters.keys() & {f"{prefix}Date".lower(), f"{prefix}Expires".lower()}:
            return _v4_expiry(parameters, prefix, param=param)
    if "expires" in parameters:
        return _v2_expiry(parameters, param=param)
    if "se" in parameters and "sig" in parameters:
        return _azure_expiry(parameters["se"], param=param)
    return None


def check_not_expired(end: float | None, *, now: float, param: str) -> None:
    """Raise RefusedUrl if ``end`` is not after ``now``, both in Unix seconds."""
    if end is not None and end <= now:
        raise RefusedUrl(
            f"{param} expired at {_readable(max(end, 0.0))}: sign a new one that holds long enough.",
            param=param,
        )


def _v4_expiry(parameters: Mapping[str, str], prefix: str, *, param: str) -> float:
    date = parameters.get(f"{prefix}Date".lower(), "")
    lifetime = parameters.get(f"{prefix}Expires".lower(), "")
    start = _basic_date(date)
    if start is None:
        raise _unreadable(f"{prefix}Date", "a date like 20260131T235959Z", param=param)
    if not _SECONDS.fullmatch(lifetime):
        raise _unreadable(f"{prefix}Expires", "a number of seconds", param=param)
    return start + float(lifetime)


def _v2_expiry(parameters: Mapping[str, str], *, param: str) -> float | None:
    value = parameters["expires"]
    if "signature" in parameters and parameters.keys() & _SIGNERS:
        if not _SECONDS.fullmatch(value):
            raise _unreadable("Expires", "a number of Unix seconds", param=param)
        return float(value)
    # In a scheme that is not known here it may be a duration: only what must be a date is taken for one.
    return float(value) if re.fullmatch(r"[0-9]{10}", value) else None


def _azure_expiry(value: str, *, param: str) -> float:
    try:
        date = datetime.fromisoformat(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _unreadable("se", "a date like 2026-01-31T23:59:59Z", param=param) from None


def _basic_date(text: str) -> float | None:
    if not _BASIC_DATE.fullmatch(text):
        return None
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _unreadable(name: str, form: str, *, param: str) -> RefusedUrl:
    return RefusedUrl(
        f"{param} has no readable {name}: it must be {form}. Pass the URL on as it was signed, all of it.",
        param=param,
    )


def _readable(end: float) -> str:
    return datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
