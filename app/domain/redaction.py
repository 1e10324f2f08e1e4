"""Secrets out of text: signatures of presigned URLs, keys, the secret that events are signed with."""

from __future__ import annotations

import re
from typing import Final

#: A URL and, if it has one, its query or fragment; also where it was percent-encoded, once or more often. It takes in
#: all of a URL at once, so that many without an end take no more time than one.
_URL: Final = re.compile(
    r"(https?(?::|%(?:25)*3a)(?:/|\\/|%(?:25)*2f){2}(?:(?!%(?:25)*(?:3f|23))[^\s?#\"'<>])*)"
    r"(?:(\?|#|%(?:25)*(?:3f|23))[^\s\"'<>]*)?",
    re.IGNORECASE,
)
#: The same without its host, as HTTP libraries name what they asked for.
_PATH: Final = re.compile(r"(?<![^\s\"'])(/[^\s?\"'<>]*)\?[^\s\"'<>]+")
#: What is secret wherever it stands: credentials in an URL or a header, a webhook's secret, the parts of a query that
#: sign it (AWS, Google, Azure).
_SECRETS: Final = (
    (re.compile(r"(https?://)[^\s/?#\"'<>@]*@", re.IGNORECASE), r"\1…@"),
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
    # OpenTelemetry quotes a header of the environment that it can't read, which may be a key.
    (re.compile(r"(Header format invalid![^:!]*: ).*", re.DOTALL), r"\1…"),
)


def without_queries(text: str) -> str:
    """``text`` without the query and fragment of any URL, and without whatever else is known to be secret."""
    text = _URL.sub(lambda url: f"{url[1]}{url[2]}…" if url[2] else url[0], text)
    text = _PATH.sub(r"\1?…", text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
