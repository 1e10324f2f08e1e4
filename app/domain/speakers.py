"""Speakers: their labels and names, which words are theirs, and where a segment changes from one to another."""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Final

from app.domain.characters import continues_character, continues_word
from app.domain.sentences import CLOSING, TERMINATORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from app.domain.transcript import Segment, Transcript, Turn, Word

#: A word outside of all turns belongs to the nearest one that is at most this far away.
_NEAR_SECONDS: Final = 1.0
#: The end of a sentence, also before quotation marks and brackets.
_SENTENCE_END: Final = re.compile(f"[{TERMINATORS}][{CLOSING}]*$")


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A word with the pieces that continue it, or the whole of a segment without words. Times are in seconds."""

    words: tuple[Word, ...]
    text: str
    start: float
    end: float


@dataclass(slots=True)
class _Run:
    """Words of one speaker, and where their text begins in that of the segment."""

    speaker: str | None
    begin: int
    words: list[Word]


def speaker_label(number: int) -> str:
    """Return the label of a speaker without a name, counted from 0: ``A`` to ``Z``, then ``AA``, ``AB`` and so on."""
    label = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        label = chr(ord("A") + letter) + label
    return label


def speaker_of(segment: Segment) -> str:
    """Return the speaker of a segment. If speakers were not told apart, each channel is one."""
    return segment.speaker or speaker_label(segment.channel or 0)


def speakers_of(transcript: Transcript) -> tuple[str, ...]:
    """Return the speakers of a transcript in the order in which they appear, or none if they were not told apart."""
    turns = (turn.speaker for turn in transcript.turns)
    words = (word.speaker for segment in transcript.segments for word in segment.words)
    segments = (segment.speaker for segment in transcript.segments)
    return tuple(dict.fromkeys(speaker for speaker in chain(turns, words, segments) if speaker is not None))


def labels_of(transcript: Transcript) -> tuple[str, ...]:
    """Return the speakers that can get names: those of the transcript, or else its channels."""
    channels = sorted({segment.channel for segment in transcript.segments if segment.channel is not None})
    return speakers_of(transcript) or tuple(map(speaker_label, channels))


def main_speaker(words: Iterable[Word]) -> str | None:
    """Return the one who speaks longest, or None if no word has a speaker."""
    seconds: dict[str, float] = {}
    for word in words:
        if word.speaker is not None:
            seconds[word.speaker] = seconds.get(word.speaker, 0.0) + max(word.end - word.start, 0.0)
    return max(seconds, key=seconds.__getitem__, default=None)


def one_line(speaker: str) -> str:
    """Return a speaker without line breaks, for the formats that have lines."""
    return " ".join(speaker.split())


def with_channels(transcript: Transcript, names: Sequence[str] = ()) -> Transcript:
    """Return the transcript with each channel as a speaker: ``names[channel]``, or its label if there is no name."""
    return replace(transcript, segments=tuple(segment_of_channel(segment, names) for segment in transcript.segments))


def segment_of_channel(segment: Segment, names: Sequence[str] = ()) -> Segment:
    """Return a segment with its channel as the speaker."""
    channel = segment.channel or 0
    speaker = names[channel] if channel < len(names) else speaker_label(channel)
    return replace(segment, speaker=speaker, words=tuple(replace(word, speaker=speaker) for word in segment.words))


def renamed(transcript: Transcript, names: Mapping[str, str]) -> Transcript:
    """Return the transcript with the ``names`` of some of its speakers, by the labels that they have now.

    If speakers were not told apart, the labels are those of channels, and all segments and words get their speakers.
    """
    if not names:
        return transcript
    if not speakers_of(transcript):
        transcript = with_channels(transcript)

    def name(speaker: str | None) -> str | None:
        return None if speaker is None else names.get(speaker, speaker)

    segments = (
        replace(
            segment,
            speaker=name(segment.speaker),
            words=tuple(replace(word, speaker=name(word.speaker)) for word in segment.words),
        )
        for segment in transcript.segments
    )
    turns = (replace(turn, speaker=names.get(turn.speaker, turn.speaker)) for turn in transcript.turns)
    return replace(transcript, segments=tuple(segments), turns=tuple(turns))


def parts(segment: Segment) -> tuple[Segment, ...]:
    """Return the segment, divided where the speaker of its words changes.

    The texts joined are its text, and none is blank. Several parts have its ``id`` and figures, but no tokens, and are
    divided at the times of their words.
    """
    runs = _runs(segment)
    if len(runs) == 1:
        return (segment,)
    ends = [*(run.begin for run in runs[1:]), len(segment.text)]
    return tuple(
        replace(
            segment,
            start=segment.start if run is runs[0] else run.words[0].start,
            end=segment.end if run is runs[-1] else max(run.words[0].start, run.words[-1].end),
            text=segment.text[run.begin : end],
            words=tuple(run.words),
            tokens=(),
            logprobs=(),
            speaker=run.speaker,
        )
        for run, end in zip(runs, ends, strict=True)
    )


def _runs(segment: Segment) -> list[_Run]:
    """Return the runs of a segment's words; one without a text of its own is a part of a neighbour."""
    if len({word.speaker for word in segment.words}) <= 1:
        return [_Run(segment.speaker, 0, list(segment.words))]
    runs: list[_Run] = []
    for speaker, placed in groupby(
        zip(segment.words, segment.word_offsets, strict=True), key=lambda pair: pair[0].speaker
    ):
        words, offsets = zip(*placed, strict=True)
        begin = len(segment.text[: offsets[0]].rstrip()) if runs else 0
        if runs and not segment.text[runs[-1].begin : begin].strip():
            runs[-1] = _Run(speaker, runs[-1].begin, [*runs[-1].words, *words])
        else:
            runs.append(_Run(speaker, begin, list(words)))
    if len(runs) > 1 and not segment.text[runs[-1].begin :].strip():
        last = runs.pop()
        runs[-1].words += last.words
    return runs


def with_speakers(transcript: Transcript, turns: tuple[Turn, ...]) -> Transcript:
    """Return the transcript with the speakers of its words and segments, and with these ``turns``.

    A word belongs to the turn that it overlaps most, or that is nearest within 1 s, or else to the speaker of the word
    before. A single word between words of another speaker belongs to that one, unless it is a sentence.
    """
    if not turns:
        return replace(transcript, turns=())
    spoken = [_spoken(segment) for segment in transcript.segments]
    speakers = _speakers(list(chain.from_iterable(spoken)), turns)
    segments = (
        _with_speakers(segment, pieces, list(islice(speakers, len(pieces))))
        for segment, pieces in zip(transcript.segments, spoken, strict=True)
    )
    return replace(transcript, segments=tuple(segments), turns=turns)


def _spoken(segment: Segment) -> list[_Spoken]:
    """Return what of a segment has one speaker each: its words, with the pieces that continue them."""
    if not segment.words:
        return [_Spoken((), segment.text, segment.start, segment.end)]
    spoken: list[_Spoken] = []
    for word in segment.words:
        if spoken and _continues(spoken[-1].text, word.word):
            whole = spoken[-1]
            spoken[-1] = _Spoken((*whole.words, word), whole.text + word.word, whole.start, max(whole.end, word.end))
        else:
            spoken.append(_Spoken((word,), word.word, word.start, word.end))
    return spoken


def _continues(before: str, text: str) -> bool:
    if not text.strip() or not before.strip():
        return True
    if before[-1].isspace() or text[0].isspace():
        return False
    return continues_character(before, text) or continues_word(before.split()[-1], text[0])


def _speakers(spoken: Sequence[_Spoken], turns: Iterable[Turn]) -> Iterator[str]:
    """Yield the speaker of each word. Of several who are equally close, the one who spoke before goes on."""
    closest = _closest(spoken, turns)
    previous = next((speakers[0] for speakers in closest if speakers), min(turns, key=lambda turn: turn.start).speaker)
    for speakers in closest:
        if speakers and previous not in speakers:
            previous = speakers[0]
        yield previous


def _closest(spoken: Sequence[_Spoken], turns: Iterable[Turn]) -> list[list[str]]:
    """Return for each word the speakers of the turns that it overlaps most, or else of the nearest ones, or none."""
    closest: list[list[str]] = [[] for _ in spoken]
    coming = deque(sorted(turns, key=lambda turn: turn.start))
    present: list[Turn] = []
    for index in sorted(range(len(spoken)), key=lambda index: spoken[index].start):
        word = spoken[index]
        while coming and coming[0].start <= word.end + _NEAR_SECONDS:
            present.append(coming.popleft())
        present = [turn for turn in present if turn.end >= word.start - _NEAR_SECONDS]
        overlaps = [min(word.end, turn.end) - max(word.start, turn.start) for turn in present]  # a distance below 0
        most = max(overlaps, default=-math.inf)
        if most >= -_NEAR_SECONDS:
            closest[index] = [turn.speaker for turn, overlap in zip(present, overlaps, strict=True) if overlap == most]
    return closest


def _with_speakers(segment: Segment, spoken: Sequence[_Spoken], speakers: list[str]) -> Segment:
    """Return a segment with the speakers of its words. The segment's is the one who speaks most of it."""
    for index in range(1, len(spoken) - 1):
        before, speaker, after = speakers[index - 1 : index + 2]
        if before == after != speaker and not _is_sentence(spoken[index - 1], spoken[index]):
            speakers[index] = before
    words = tuple(
        replace(piece, speaker=speaker) for word, speaker in zip(spoken, speakers, strict=True) for piece in word.words
    )
    return replace(segment, words=words, speaker=main_speaker(words) or speakers[0])


def _is_sentence(before: _Spoken, word: _Spoken) -> bool:
    return all(_SENTENCE_END.search(spoken.text.rstrip()) for spoken in (before, word))
