"""Corrections of a transcript by people: new texts of segments and names of speakers, kept beside the original."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from app.domain.errors import InvalidRequest
from app.domain.names import clean_name
from app.domain.realignment import realigned
from app.domain.speakers import labels_of, main_speaker, renamed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.domain.transcript import Segment, Transcript

#: The most characters of a corrected segment, which is up to 30 s of speech.
MAX_TEXT_LENGTH: Final = 2000
#: The most characters of a speaker's name.
MAX_SPEAKER_LENGTH: Final = 64
#: Line breaks and other control characters, which end lines and cues in some formats.
_BREAKS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """The corrected texts by the ``id`` of their segments, and the names of speakers by their labels.

    An empty text removes its segment. ``edited_at`` is in Unix seconds, None without corrections.
    """

    texts: Mapping[int, str] = field(default_factory=dict)
    speakers: Mapping[str, str] = field(default_factory=dict)
    edited_at: float | None = None

    @property
    def is_empty(self) -> bool:
        return not self.texts and not self.speakers

    @property
    def version(self) -> str:
        """A word that is the same for the same texts and names; 0 for none."""
        if self.is_empty:
            return "0"
        texts, speakers = sorted(self.texts.items()), sorted(self.speakers.items())
        written = json.dumps([texts, speakers] if speakers else texts).encode()
        return hashlib.blake2b(written, digest_size=8).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a value that JSON can represent."""
        segments = [{"id": number, "text": text} for number, text in sorted(self.texts.items())]
        return {"edited_at": self.edited_at, "segments": segments, "speakers": dict(self.speakers)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """Return the corrections that :meth:`to_dict` was called on; those of older versions have no ``speakers``."""
        texts = {segment["id"]: segment["text"] for segment in stored["segments"]}
        return cls(texts=texts, speakers=stored.get("speakers", {}), edited_at=stored["edited_at"])


NO_CORRECTIONS: Final = Corrections()


def checked(corrections: Corrections, original: Transcript) -> Corrections:
    """Return the corrections that change the transcript, with texts spaced as those of their segments.

    Raises:
        InvalidRequest: there is no such segment or speaker, or a text or name is not allowed.
    """
    return replace(
        corrections,
        texts=_checked_texts(corrections.texts, original),
        speakers=_checked_names(corrections.speakers, original),
    )


def _checked_texts(texts: Mapping[int, str], original: Transcript) -> dict[int, str]:
    segments = {segment.id: segment for segment in original.segments}
    if unknown := sorted(texts.keys() - segments.keys()):
        raise InvalidRequest(
            f"There is no segment {unknown[0]} in this transcript: use the `id` of one of its segments, as they are in "
            "the document of the job.",
            param="segments",
        )
    cleaned = {number: _cleaned(text, segments[number]) for number, text in texts.items()}
    return {number: text for number, text in cleaned.items() if text != segments[number].text}


def _checked_names(names: Mapping[str, str], original: Transcript) -> dict[str, str]:
    labels = labels_of(original)
    unknown = next((label for label in names if label not in labels), None)
    if unknown is not None:
        shown = unknown[:MAX_SPEAKER_LENGTH].encode(errors="replace").decode()
        allowed = (
            f"its speakers are {', '.join(labels)}."
            if labels
            else "submit the recording again with `diarize=true`, or with `multichannel=true` if each speaker has a "
            "channel."
        )
        raise InvalidRequest(f"There is no speaker {shown} in this transcript: {allowed}", param="speakers")
    return {label: name for label, text in names.items() if (name := _checked_name(label, text)) != label}


def _checked_name(label: str, text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= MAX_SPEAKER_LENGTH:
        raise InvalidRequest(
            f"The name of speaker {label} must have 1 to {MAX_SPEAKER_LENGTH} characters, got {len(name)}. "
            "Leave a speaker out to restore its label.",
            param="speakers",
        )
    if clean_name(name) != name:
        raise InvalidRequest(
            f"The name of speaker {label} has a line break or another character that can't be shown: send it without.",
            param="speakers",
        )
    return name


def corrected(original: Transcript, corrections: Corrections) -> Transcript:
    """Return the transcript with its corrected segments and named speakers, without segments that were removed."""
    texts = corrections.texts
    named = renamed(original, corrections.speakers)
    segments = (
        _with_text(segment, texts[segment.id]) if segment.id in texts else segment
        for segment in named.segments
        if texts.get(segment.id) != ""
    )
    return replace(named, segments=tuple(segments))


def corrected_segments(original: Transcript, corrections: Corrections) -> tuple[Segment, ...]:
    """Return the segments with corrected texts; those that were removed have an empty one."""
    texts = corrections.texts
    named = renamed(original, corrections.speakers)
    return tuple(_with_text(segment, texts[segment.id]) for segment in named.segments if segment.id in texts)


def _with_text(segment: Segment, text: str) -> Segment:
    """Return the segment with another text and its words, without what only belongs to the text of the model."""
    words = realigned(segment, text) if segment.words else ()
    speaker = main_speaker(words) or segment.speaker
    return replace(segment, text=text, words=words, speaker=speaker, tokens=(), logprobs=(), uncertain=False)


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
