"""The fields about speakers, and the rules that concern several of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.api.forms import (
    DIARIZE,
    KNOWN_SPEAKER_NAMES,
    KNOWN_SPEAKER_REFERENCES,
    MAX_SPEAKERS,
    MIN_SPEAKERS,
    NUM_SPEAKERS,
)
from app.domain.errors import InvalidRequest
from app.domain.formats import OF_SPEAKERS
from app.domain.transcript import Diarization

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from app.api.fields import Field, Form
    from app.domain.formats import ResponseFormat

#: The fields that limit the number of voices.
_COUNTS: Final[tuple[Field[Any], ...]] = (NUM_SPEAKERS, MIN_SPEAKERS, MAX_SPEAKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speakers:
    """The speakers that a form asks for. ``warnings`` are sentences about fields that have no effect."""

    diarization: Diarization | None = None
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def requested_speakers(
    form: Form,
    *,
    formats: Collection[ResponseFormat],
    multichannel: bool,
    reference_count: int,
    obstacle: str | None,
) -> Speakers:
    """Return the speakers that a form asks for, given the ``formats`` of its results.

    ``obstacle`` is the reason why it would be of no use to ask for them, or None.

    Raises:
        InvalidRequest: a value is not allowed, or fields contradict each other.
    """
    diarize, names = form[DIARIZE], form[KNOWN_SPEAKER_NAMES]
    limits = _limits(form)
    is_implied = not OF_SPEAKERS.isdisjoint(formats) and not (multichannel and not names)
    if obstacle is not None or not (diarize or is_implied):
        asked = form.names_of(DIARIZE) if diarize else []
        reason = obstacle or "it needs `diarize=true` or `response_format=diarized_json`"
        return Speakers(warnings=_ignored((*asked, *_hints(form, reference_count)), reason))
    if multichannel:
        _check_channels(reference_count)
        counts = [field.name for field in _COUNTS if form.has(field)]
        warnings = _ignored(counts, "with `multichannel=true` each channel is a speaker")
        return Speakers(diarization=Diarization(), names=tuple(names), warnings=warnings)
    _check_counts(form)
    _check_references(len(names), reference_count)
    return Speakers(diarization=limits, names=tuple(names))


def _ignored(names: Iterable[str], reason: str) -> tuple[str, ...]:
    return tuple(f"`{name}` was ignored: {reason}." for name in names)


def _hints(form: Form, reference_count: int) -> Iterator[str]:
    """Yield the names of the fields that say something about the speakers."""
    for field in (*_COUNTS, KNOWN_SPEAKER_NAMES):
        if form.has(field):
            yield field.name
    if reference_count:
        yield KNOWN_SPEAKER_REFERENCES.name


def _limits(form: Form) -> Diarization:
    number, least, most = form[NUM_SPEAKERS], form[MIN_SPEAKERS], form[MAX_SPEAKERS]
    return Diarization(min_speakers=number or least or 1, max_speakers=number or most)


def _check_counts(form: Form) -> None:
    number, least, most = form[NUM_SPEAKERS], form[MIN_SPEAKERS], form[MAX_SPEAKERS]
    if number is not None and (least is not None or most is not None):
        raise InvalidRequest(
            f"`{NUM_SPEAKERS.name}` is the exact number of speakers: leave out `{MIN_SPEAKERS.name}` and "
            f"`{MAX_SPEAKERS.name}`, or leave it out and send these.",
            param=NUM_SPEAKERS.name,
        )
    if least is not None and most is not None and least > most:
        raise InvalidRequest(
            f"`{MIN_SPEAKERS.name}` must be at most `{MAX_SPEAKERS.name}`, got {least} and {most}: swap them, or leave "
            "one out.",
            param=MIN_SPEAKERS.name,
        )


def _check_channels(reference_count: int) -> None:
    if reference_count:
        raise InvalidRequest(
            f"`{KNOWN_SPEAKER_REFERENCES.name}` and `multichannel=true` exclude each other: leave out the references, "
            f"and `{KNOWN_SPEAKER_NAMES.name}` are the names of the channels.",
            param=KNOWN_SPEAKER_REFERENCES.name,
        )


def _check_references(name_count: int, reference_count: int) -> None:
    if name_count and not reference_count:
        raise InvalidRequest(
            f"`{KNOWN_SPEAKER_NAMES.name}` requires `{KNOWN_SPEAKER_REFERENCES.name}`, a recording of each voice: send "
            "them, or `multichannel=true` if each speaker has a channel.",
            param=KNOWN_SPEAKER_NAMES.name,
        )
    if name_count != reference_count:
        raise InvalidRequest(
            f"`{KNOWN_SPEAKER_REFERENCES.name}` must be as many as `{KNOWN_SPEAKER_NAMES.name}`, got {reference_count} "
            f"and {name_count}: send one for each name, in the same order.",
            param=KNOWN_SPEAKER_REFERENCES.name,
        )
