"""A transcript as Whisper's own programs write it: ``json`` and ``txt``.

Source: ``whisperx/utils.py``, and ``app/utils.py`` of whisper-asr-webservice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.domain.formats import segment_object
from app.domain.languages import language_code
from app.domain.speakers import parts, renamed, speakers_of

if TYPE_CHECKING:
    from app.domain.transcript import Segment, Transcript, Word


def with_numbered_speakers(transcript: Transcript) -> Transcript:
    """Return the transcript with speakers called ``SPEAKER_00``, ``SPEAKER_01`` and so on, as in WhisperX.

    Programs take these for labels, and ask who it is; they would take a letter for a name.
    """
    labels = {speaker: f"SPEAKER_{number:02}" for number, speaker in enumerate(speakers_of(transcript))}
    return renamed(transcript, labels)


def whisper_text(transcript: Transcript) -> str:
    """Return a line for each segment, or for each part of it that is of one speaker, after the speaker."""
    lines = (
        f"[{segment.speaker}]: {segment.text.strip()}\n" if segment.speaker else f"{segment.text.strip()}\n"
        for segment in _segments(transcript)
    )
    return "".join(lines)


def whisper_json(transcript: Transcript, *, has_words: bool) -> dict[str, Any]:
    """Return text, segments and the code of the spoken language; with ``has_words`` segments have their words.

    A segment has one speaker; words have the space before them.
    """
    segments = [_segment_object(segment, has_words=has_words) for segment in _segments(transcript)]
    return {"text": transcript.text, "segments": segments, "language": language_code(transcript.language)}


def _segments(transcript: Transcript) -> list[Segment]:
    """Return the segments, divided where the speaker changes and numbered again."""
    divided = (part for segment in transcript.segments for part in parts(segment))
    return [replace(part, id=number) for number, part in enumerate(divided)]


def _segment_object(segment: Segment, *, has_words: bool) -> dict[str, Any]:
    words = {"words": [_word_object(word) for word in segment.words]} if has_words else {}
    return {**segment_object(segment), **words}


def _word_object(word: Word) -> dict[str, Any]:
    speaker = {} if word.speaker is None else {"speaker": word.speaker}
    return {"word": word.word, "start": word.start, "end": word.end, "probability": word.probability, **speaker}
