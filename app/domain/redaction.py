"""Redaction of secrets in text: signatures of presigned URLs, API keys, tickets and the webhook secret."""

from __future__ import annotations

import re
from typing import Final

#: A URL with its query or fragment, even if it was percent-encoded, once or several times. The pattern consumes a
#: whole URL at once, so that its time stays linear.
_URL: Final = re.compile(
    r"(https?(?::|%(?:25)*3a)(?:/|\\/|%(?:25)*2f){2}(?:(?!%(?:25)*(?:3f|23))[^\s?#\"'<>])*)"
    r"(?:(\?|#|%(?:25)*(?:3f|23))[^\s\"'<>]*)?",
    re.IGNORECASE,
)
#: A path with its query, in the form in which HTTP libraries log requests.
_PATH: Final = re.compile(r"(?<![^\s\"'])(/[^\s?\"'<>]*)\?[^\s\"'<>]+")
#: Secrets outside of URLs: credentials in headers, webhook secrets, and the signatures of AWS, Google and Azure.
_SECRETS: Final = (
    (re.compile(r"(https?://)[^\s/?#\"'<>@]*@", re.IGNORECASE), r"\1…@"),
    (re.compile(r"((?:\b|(?<=%[0-9a-f]{2}))ticket(?:=|%(?:25)*3d))[^\s&\"'<>]+", re.IGNORECASE), r"\1…"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), "whsec_…"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE), r"\1 …"),
    (
        re.compile(
            r"((?:\b|(?<=%[0-9a-f]{2}))(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|"
            r"GoogleAccessId|Signature|sig)(?:=|%(?:25)*3d))[^\s&\"'<>]+",
            re.IGNORECASE,
        ),
        r"\1…",
    ),
    # OpenTelemetry quotes the headers in its environment variable if it can't parse them. They can hold a key.
    (re.compile(r"(Header format invalid![^:!]*: ).*", re.DOTALL), r"\1…"),
)


def without_queries(text: str) -> str:
    """Return ``text`` without the queries and fragments of URLs and without other known secrets."""
    text = _URL.sub(lambda url: f"{url[1]}{url[2]}…" if url[2] else url[0], text)
    text = _PATH.sub(r"\1?…", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
