"""Times of words, from the alignment of a window's tokens, its lag, and the pauses between words.

Whisper aligns tokens by cross-attention, which finds nothing to align to in a pause: each word begins where the one
before it ends. Most models are early, so that the first word after a pause covers it. Whisper's own timestamps help
little, because few pauses are between phrases; voice activity detection knows them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate, chain, takewhile
from statistics import median
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from app.domain.transcript import Word
from app.transcription.segments import SECONDS_PER_TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The start and the end of a pause, in seconds.
Pause: TypeAlias = tuple[float, float]

#: A word that has to be shortened gets twice the median length of the window's words, and that counts as at most 0.7 s,
#: as in ``whisper/timing.py``.
_LONGEST_MEDIANS: Final = 2.0
_LONGEST_MEDIAN: Final = 0.7
#: A word of an early alignment that reaches further into a pause is spoken after it. In recordings with known word
#: times, 8 of 9 words that were spoken before a pause reached at most 0.25 s into it, and 9 of 11 that were spoken
#: after it at least 0.37 s.
_REACH_SECONDS: Final = 0.3
#: Text of so few tokens, with its end, can really be at one time.
_FEW_TOKENS: Final = 2
#: A broken character is decoded as this.
_BROKEN: Final = "\N{REPLACEMENT CHARACTER}"
#: Punctuation that belongs to the word after it, and to the word before it, as in OpenAI's ``whisper/timing.py``.
_OPENING: Final = frozenset("\"'“¿([{-")
_CLOSING: Final = frozenset("\"'.。,，!！?？:：”)]}、")


@dataclass(frozen=True, slots=True)
class AlignedToken:
    """The start of a token, in seconds from the first frame that was decoded, and its probability (0 to 1)."""

    start: float
    probability: float


def aligned_tokens(pairs: Sequence[tuple[int, int]], probabilities: Sequence[float]) -> list[AlignedToken]:
    """Return the tokens of a text and, as the last one, its end, with probability 0.

    ``pairs`` are CTranslate2's ``alignments``: indexes of a token and of a position of 20 ms, in order of time.
    """
    starts = [0.0] * (len(probabilities) + 1)
    previous_token = -1
    for token, position in pairs:
        if token != previous_token and token < len(starts):
            starts[token] = position * SECONDS_PER_TIMESTAMP
            previous_token = token
    return [AlignedToken(*token) for token in zip(starts, [*probabilities, 0.0], strict=True)]


def are_usable(tokens: Sequence[AlignedToken]) -> bool:
    """Return False if an alignment has no times: on some devices every token is at one time, or at none."""
    starts = [token.start for token in tokens]
    return all(0 <= start < math.inf for start in starts) and (len(starts) <= _FEW_TOKENS or min(starts) < max(starts))


def words_of_phrases(
    phrases: Sequence[tuple[Sequence[str], Sequence[int]]], tokens: Sequence[AlignedToken]
) -> list[list[Word]]:
    """Return the words of each phrase; punctuation is part of its word.

    ``phrases`` are the texts of their words and the number of tokens of each. ``tokens`` are those of all phrases, with
    the end of the text as the last one.
    """
    words: list[list[Word]] = []
    first = 0
    for texts, counts in phrases:
        phrase_words: list[Word] = []
        for text, count in zip(texts, counts, strict=True):
            parts, end = tokens[first : first + count], tokens[first + count].start
            mean = sum(part.probability for part in parts) / count
            phrase_words.append(Word(word=text, start=parts[0].start, end=end, probability=mean))
            first += count
        words.append(_with_punctuation(phrase_words))
    return words


def _with_punctuation(words: Sequence[Word]) -> list[Word]:
    """Join words that are only punctuation to their neighbours."""
    merged: list[Word] = []
    opening = ""
    for word in words:
        bare = word.word.strip()
        if merged and not opening and bare and _CLOSING.issuperset(bare) and not word.word.startswith(" "):
            last = merged[-1]
            end = last.end if last.end > last.start else word.end  # a word without length is heard in its punctuation
            merged[-1] = replace(last, word=last.word + word.word, end=end)
        elif word.word.startswith(" ") and bare and _OPENING.issuperset(bare):
            opening += word.word
        else:
            merged.append(replace(word, word=opening + word.word))
            opening = ""
    if opening and merged:
        merged[-1] = replace(merged[-1], word=merged[-1].word + opening)
    return merged


def split_words(tokenizer: Any, tokens: Sequence[int]) -> tuple[list[str], list[int]]:
    """Return the words of a text and the number of tokens of each, split as Whisper does for the tokenizer's language.

    Unlike in Whisper, a translation is split at spaces, whatever language it comes from, as it is English, and the rest
    of the text from a broken character on is a word.
    """
    is_english = tokenizer.task == tokenizer.translate
    split = tokenizer.split_tokens_on_spaces if is_english else tokenizer.split_to_word_tokens
    words, word_tokens = split([*tokens, tokenizer.eot])
    counts = [len(part) for part in word_tokens if part[-1] != tokenizer.eot]
    whole = list(takewhile(lambda word: _BROKEN not in word, words[: len(counts)]))
    counts = counts[: len(whole)]
    if rest := len(tokens) - sum(counts):
        return [*whole, tokenizer.decode(tokens)[len("".join(whole)) :]], [*counts, rest]
    return whole, counts


def place_words(
    words_of_phrases: Sequence[Sequence[Word]], phrase_starts: Sequence[float], pauses: Sequence[Pause], lag: float
) -> list[list[Word]]:
    """Return the words of each phrase, in order, with times that spare the ``pauses``.

    All times are in seconds from the first frame that was decoded. ``phrase_starts`` are Whisper's, and ``lag`` is that
    of the alignment.
    """
    spoken = [
        [_moved(word, -lag, earliest=_earliest_start(words, start, pauses)) for word in words]
        for words, start in zip(words_of_phrases, phrase_starts, strict=True)
    ]
    longest = _longest_seconds(list(chain.from_iterable(spoken)))
    placed: list[list[Word]] = []
    for words in spoken:
        phrase = _shorten_first(_share_times(words), longest, pauses)
        placed.append(_share_times(_spare_pauses(phrase, longest, pauses, is_early=lag < 0)))
    return placed


def _earliest_start(words: Sequence[Word], phrase_start: float, pauses: Sequence[Pause]) -> float:
    """Return the end of the pause in which a phrase starts, unless nothing is said after it, or 0."""
    speech = _after_pause(phrase_start, pauses)
    return speech if speech is not None and words and words[-1].end > speech else 0.0


def _moved(word: Word, seconds: float, *, earliest: float) -> Word:
    return replace(word, start=max(earliest, word.start + seconds), end=max(earliest, word.end + seconds))


def _after_pause(seconds: float, pauses: Sequence[Pause]) -> float | None:
    """Return the end of the pause that a time lies in, or None if it lies in none."""
    return next((pause_end for pause_start, pause_end in pauses if pause_start <= seconds < pause_end), None)


def _longest_seconds(words: Sequence[Word]) -> float:
    lengths = [word.end - word.start for word in words if word.end > word.start]
    return _LONGEST_MEDIANS * min(_LONGEST_MEDIAN, median(lengths)) if lengths else 0.0


def _shorten_first(words: Sequence[Word], longest: float, pauses: Sequence[Pause]) -> list[Word]:
    """Shorten the first two words of a phrase if they are stretched over speech that the model left out before them.

    Whisper does so too. The second word draws the first one to it.
    """
    if not words:
        return []
    first, *rest = words
    if rest and rest[0].start == first.end:
        rest[0] = _shortened(rest[0], longest, pauses)
        first = replace(first, end=rest[0].start)
    return [_shortened(first, longest, pauses), *rest]


def _shortened(word: Word, longest: float, pauses: Sequence[Pause]) -> Word:
    """Return the last ``longest`` seconds of a word that is more than twice as long, pauses not counted."""
    if _start_of_spoken(word, 2 * longest, pauses) == word.start:
        return word
    return replace(word, start=_start_of_spoken(word, longest, pauses))


def _start_of_spoken(word: Word, seconds: float, pauses: Sequence[Pause]) -> float:
    """Return the start of a word, or the time from which on ``seconds`` of it are outside of pauses."""
    end = word.end
    for pause_start, pause_end in reversed(pauses):
        if pause_end < end:
            if end - pause_end >= seconds:
                break
            seconds -= end - pause_end
        end = min(end, pause_start)
    return max(word.start, end - seconds)


def _spare_pauses(words: Sequence[Word], longest: float, pauses: Sequence[Pause], *, is_early: bool) -> list[Word]:
    """Move the starts and ends of a phrase's words out of pauses.

    A word that covers a pause is spoken after it, and the word before it lasts until the pause. If the alignment is
    early and the phrase goes on after the pause, so are words within it, and a word that reaches far into it; a late
    alignment leaves a pause to the word before it. Other words within a pause are too quiet for voice activity
    detection: they stay, and are at most ``longest`` seconds long.
    """
    placed: list[Word] = []
    for index, word in enumerate(words):
        start, end = word.start, word.end
        adjoins = index > 0 and words[index - 1].end == start
        is_followed = index + 1 < len(words) and words[index + 1].start == end
        for pause_start, pause_end in pauses:
            if pause_end <= start or pause_start >= end:
                continue
            goes_on = is_early and is_followed and words[-1].end > pause_end
            if pause_start <= start and end <= pause_end:
                start, end = (pause_end, pause_end) if goes_on else (max(start, end - longest), end)
            elif end > pause_end or (goes_on and end - pause_start > _REACH_SECONDS):
                if adjoins and start == word.start:
                    placed[-1] = _extended(placed[-1], pause_start, longest)
                start, end = pause_end, max(end, pause_end)
            else:
                end = pause_start
        placed.append(replace(word, start=start, end=end))
    return placed


def without_pauses(start: float, end: float, pauses: Sequence[Pause]) -> tuple[float, float]:
    """Return the start and end of a phrase outside of pauses, unless it lies within one."""
    spoken_start = _after_pause(start, pauses) or start
    spoken_end = next((pause_start for pause_start, pause_end in pauses if pause_start < end <= pause_end), end)
    return (spoken_start, spoken_end) if spoken_start < spoken_end else (start, end)


def _extended(word: Word, end: float, longest: float) -> Word:
    """Return a word that lasts until ``end``, or as near to it as ``longest`` seconds allow."""
    return replace(word, end=max(word.end, min(end, word.start + longest)))


def _share_times(words: Sequence[Word]) -> list[Word]:
    """Let a word without length share the time of the next word, or of the previous one, that adjoins it."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and _is_empty(groups[-1]) and groups[-1][-1].end == word.start:
            groups[-1].append(word)
        else:
            groups.append([word])
    joined: list[list[Word]] = []
    for group in groups:
        if joined and _is_empty(group) and joined[-1][-1].end == group[0].start:
            joined[-1] += group
        else:
            joined.append(group)
    return [word for group in joined for word in spread(group, group[0].start, group[-1].end)]


def _is_empty(group: Sequence[Word]) -> bool:
    return group[-1].end <= group[0].start


def spread(words: Sequence[Word], start: float, end: float) -> list[Word]:
    """Divide the time from ``start`` to ``end`` (seconds) among words by their numbers of letters."""
    letters = [0, *accumulate(max(1, len(word.word.strip())) for word in words)]
    edges = [start + (end - start) * before / letters[-1] for before in letters[:-1]] + [end]
    return [replace(word, start=edges[index], end=edges[index + 1]) for index, word in enumerate(words)]
