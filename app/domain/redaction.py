"""Secrets out of text: signatures of presigned URLs, keys, the secret that events are signed with."""

from __future__ import annotations

import re
from typing import Final

_QUERY: Final = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
#: What is secret wherever it stands: credentials in an URL or a header, a webhook's secret, the parts of a query that
#: sign it (AWS, Google, Azure).
_SECRETS: Final = (
    (re.compile(r"(https?://)[^\s/?#\"'<>@]*@", re.IGNORECASE), r"\1…@"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), "whsec_…"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE), r"\1 …"),
    (
        re.compile(
            r"\b((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|GoogleAccessId|Signature|sig)=)"
            r"[^\s&\"'<>]+",
            re.IGNORECASE,
        ),
        r"\1…",
    ),
)


def without_queries(text: str) -> str:
    """``text`` with the query of every URL cut off, and without whatever else is known to be secret."""
    text = _QUERY.sub(r"\1?…", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
