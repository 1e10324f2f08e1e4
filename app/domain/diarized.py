"""A transcript by its speakers: OpenAI's segments of one speaker each, a script of the conversation, and RTTM."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from app.domain.speakers import one_line, parts, speaker_of, speakers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.domain.transcript import Segment, Transcript


def segment_id(segment: Segment) -> str:
    """Return the id of the first, and mostly only, object of a segment in ``diarized_json``."""
    return f"seg_{segment.id + 1:03d}"


def diarized_segments(segment: Segment) -> list[dict[str, Any]]:
    """Return OpenAI's ``transcript.text.segment`` objects, one for each part of a segment.

    Bodies and event streams share them. The ids of further parts end in ``_2``, ``_3`` and so on.
    """
    return [
        {
            "type": "transcript.text.segment",
            "id": segment_id(segment) + (f"_{number}" if number > 1 else ""),
            "start": part.start,
            "end": part.end,
            "text": part.text.strip(),
            "speaker": speaker_of(part),
        }
        for number, part in enumerate(parts(segment), start=1)
    ]


def script(transcript: Transcript) -> str:
    """Return the text with a line ``A: …`` for each change of speaker, or as it is if there are no speakers."""
    if not speakers_of(transcript):
        return transcript.text
    spoken = (part for segment in transcript.segments for part in parts(segment) if part.text.strip())
    lines = (
        f"{one_line(speaker)}: {''.join(part.text for part in same).strip()}"
        for speaker, same in groupby(spoken, key=speaker_of)
    )
    return "\n".join(lines)


def rttm(transcript: Transcript) -> str:
    """Return the turns in the Rich Transcription Time Marked format, without the name of a file.

    Without turns, each part of a segment is one, from its first word to its last. Spaces in the names of speakers
    become ``_``, because they separate the columns.

    Source: NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan", appendix A.
    """
    rows = (
        f"SPEAKER <NA> {channel + 1} {start:.3f} {end - start:.3f} <NA> <NA> {'_'.join(speaker.split())} <NA> <NA>\n"
        for start, end, channel, speaker in sorted(_turns(transcript))
        if round(end - start, 3) > 0
    )
    return "".join(rows)


def _turns(transcript: Transcript) -> Iterator[tuple[float, float, int, str]]:
    """Yield the start, end, channel and speaker of each turn."""
    for turn in transcript.turns:
        yield turn.start, turn.end, 0, turn.speaker
    if not transcript.turns:
        for part in (part for segment in transcript.segments for part in parts(segment)):
            start, end = (part.words[0].start, part.words[-1].end) if part.words else (part.start, part.end)
            yield start, end, part.channel or 0, speaker_of(part)
