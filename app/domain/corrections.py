"""Corrections of a transcript by people: the new texts of some of its segments, kept beside the original."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from app.domain.errors import InvalidRequest
from app.domain.realignment import realigned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.transcript import Segment, Transcript

#: The most characters of a corrected segment, which is up to 30 s of speech.
MAX_TEXT_LENGTH: Final = 2000
#: Line breaks and other control characters, which end lines and cues in some formats.
_BREAKS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """The corrected texts by the ``id`` of their segments; an empty text removes its segment.

    ``edited_at`` is in Unix seconds, None without corrections.
    """

    texts: Mapping[int, str] = field(default_factory=dict)
    edited_at: float | None = None

    @property
    def version(self) -> str:
        """A word that is the same for the same texts; 0 for none."""
        if not self.texts:
            return "0"
        written = json.dumps(sorted(self.texts.items())).encode()
        return hashlib.blake2b(written, digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a value that JSON can represent."""
        segments = [{"id": number, "text": text} for number, text in sorted(self.texts.items())]
        return {"edited_at": self.edited_at, "segments": segments}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Return the corrections that :meth:`to_dict` was called on."""
        texts = {segment["id"]: segment["text"] for segment in stored["segments"]}
        return cls(texts=texts, edited_at=stored["edited_at"])


NO_CORRECTIONS: Final = Corrections()


def checked(texts: Mapping[int, str], original: Transcript) -> dict[int, str]:
    """Return the texts that differ from those of the transcript, spaced as those are.

    Raises:
        InvalidRequest: there is no such segment, or a text is too long.
    """
    segments = {segment.id: segment for segment in original.segments}
    if unknown := sorted(texts.keys() - segments.keys()):
        raise InvalidRequest(
            f"There is no segment {unknown[0]} in this transcript: use the `id` of one of its segments, as they are in "
            "the document of the job.",
            param="segments",
        )
    cleaned = {number: _cleaned(text, segments[number]) for number, text in texts.items()}
    return {number: text for number, text in cleaned.items() if text != segments[number].text}


def corrected(original: Transcript, corrections: Corrections) -> Transcript:
    """Return the transcript with its corrected segments, without those that were removed."""
    texts = corrections.texts
    segments = (
        corrected_segment(segment, texts[segment.id]) if segment.id in texts else segment
        for segment in original.segments
        if texts.get(segment.id) != ""
    )
    return replace(original, segments=tuple(segments))


def corrected_segment(segment: Segment, text: str) -> Segment:
    """Return the segment with another text and its words, without what only belongs to the text of the model."""
    words = realigned(segment, text) if segment.words else ()
    return replace(segment, text=text, words=words, tokens=(), logprobs=(), uncertain=False)


def _cleaned(text: str, segment: Segment) -> str:
    """Return a text on one line, with the space before it that the segment has."""
    text = _BREAKS.sub(" ", text).strip()
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidRequest(
            f"The text of segment {segment.id} must have at most {MAX_TEXT_LENGTH} characters, got {len(text)}: "
            "a segment is up to 30 s of speech.",
            param="segments",
        )
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidRequest(
            f"The text of segment {segment.id} has half of a surrogate pair: send whole characters.", param="segments"
        ) from exc
    if text == segment.text.strip():
        return segment.text
    space = segment.text[: len(segment.text) - len(segment.text.lstrip())]
    return space + text if text else ""
