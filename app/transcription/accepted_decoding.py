"""A decoding that is kept, from its tokens to segments with times in the recording.

Making the segments takes no device: a batch of 16 windows with words takes about 50 ms of a core, in which the device
can have the next batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from app.domain.transcript import Segment
from app.transcription.segments import SECONDS_PER_FRAME, Phrase, in_order, token_logprob
from app.transcription.word_times import (
    AlignedToken,
    aligned_tokens,
    are_usable,
    place_words,
    split_words,
    spread,
    without_pauses,
    words_of_phrases,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import TokenLogprob, Word
    from app.transcription.fallback import Decoding
    from app.transcription.window import Timeline
    from app.transcription.word_times import Pause


@dataclass(slots=True, kw_only=True)
class AcceptedDecoding:
    """A decoding of a window that is kept.

    ``decoding`` is the best one of the window, ``temperature`` that of the last one, as in faster-whisper. It is
    ``uncertain`` if none was acceptable. ``phrases`` cover ``frames_done`` of the frames that the window had left from
    ``seek`` on. ``tokenizer`` is faster-whisper's for the window's language and task. ``text_tokens`` are those of all
    phrases without timestamps. ``alignment`` is CTranslate2's ``WhisperAlignmentResult`` for them, or None if there is
    none, and ``alignment_lag`` the seconds by which it is late. Phrases before ``new_seconds`` of the window are not
    new: they have no segments.
    """

    decoding: Decoding
    temperature: float
    uncertain: bool
    phrases: list[Phrase]
    frames_done: int
    tokenizer: Any
    seek: int
    timeline: Timeline
    word_timestamps: bool
    token_logprobs: bool
    new_seconds: float = 0.0
    alignment: Any | None = None
    alignment_lag: float = 0.0
    text_tokens: list[int] = field(init=False)
    _texts: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        end_of_text = self.tokenizer.eot
        self._texts = [[token for token in phrase.tokens if token < end_of_text] for phrase in self.phrases]
        self.text_tokens = list(chain.from_iterable(self._texts))

    @property
    def _offset(self) -> float:
        """The seconds of the window before the first frame that was decoded."""
        return self.seek * SECONDS_PER_FRAME

    @property
    def has_estimated_words(self) -> bool:
        """True if the times of words are shares of their phrase's, because nothing better is known."""
        return self.word_timestamps and bool(self.text_tokens) and not are_usable(self._aligned_tokens())

    def segments(self) -> tuple[Segment, ...]:
        """Return a segment for each phrase that has a letter or digit, and a length, numbered from 0.

        Segments and words follow each other without overlap, each at least as long as its times can show. A segment
        begins and ends with its words, if there are any.
        """
        seek = round(self._bounds()[0] / SECONDS_PER_FRAME)
        pauses = self.timeline.pauses_after(self._offset)
        segments: list[Segment] = []
        for phrase, (start, end), words, logprobs in zip(
            self.phrases, self._phrase_times(pauses), self._words(pauses), self._logprobs(), strict=True
        ):
            text = self.tokenizer.decode(phrase.tokens)
            if not (self._is_new(phrase) and _says_something(text)) or phrase.end <= phrase.start:
                continue
            segments.append(
                Segment(
                    id=len(segments),
                    seek=seek,
                    start=words[0].start if words else start,
                    end=words[-1].end if words else end,
                    text=text,
                    tokens=phrase.tokens,
                    temperature=self.temperature,
                    avg_logprob=self.decoding.avg_logprob,
                    compression_ratio=self.decoding.compression_ratio,
                    no_speech_prob=self.decoding.no_speech_prob,
                    words=words,
                    logprobs=logprobs,
                    uncertain=self.uncertain,
                    language=self.tokenizer.language_code,
                )
            )
        return tuple(segments)

    def _is_new(self, phrase: Phrase) -> bool:
        return self._offset + phrase.start > self.new_seconds - SECONDS_PER_FRAME

    def _bounds(self) -> tuple[float, float]:
        """Return the start and end, in seconds of the recording, of what was decoded."""
        return self.timeline.times(self._offset, self._offset + self.frames_done * SECONDS_PER_FRAME)

    def _phrase_times(self, pauses: Sequence[Pause]) -> list[tuple[float, float]]:
        """Return the start and end of each phrase in seconds of the recording."""
        spoken = [without_pauses(phrase.start, phrase.end, pauses) for phrase in self.phrases]
        times = [self.timeline.phrase_times(self._offset + start, self._offset + end) for start, end in spoken]
        return in_order(times, *self._bounds())

    def _aligned_tokens(self) -> list[AlignedToken]:
        if self.alignment is None:
            return [AlignedToken(math.nan, math.exp(self.decoding.avg_logprob))] * (len(self.text_tokens) + 1)
        return aligned_tokens(self.alignment.alignments, self.alignment.text_token_probs)

    def _words(self, pauses: Sequence[Pause]) -> list[tuple[Word, ...]]:
        """Return the words of each phrase, with times in seconds of the recording."""
        if not self.word_timestamps or not self.text_tokens:
            return [()] * len(self.phrases)
        tokens = self._aligned_tokens()
        words_by_phrase = words_of_phrases([split_words(self.tokenizer, text) for text in self._texts], tokens)
        if are_usable(tokens):
            starts = [phrase.start for phrase in self.phrases]
            words_by_phrase = place_words(words_by_phrase, starts, pauses, self.alignment_lag)
        else:
            words_by_phrase = [
                spread(phrase_words, phrase.start, phrase.end)
                for phrase_words, phrase in zip(words_by_phrase, self.phrases, strict=True)
            ]
        return self._in_recording(words_by_phrase)

    def _in_recording(self, words_by_phrase: Sequence[Sequence[Word]]) -> list[tuple[Word, ...]]:
        words = list(chain.from_iterable(words_by_phrase))
        offset = self._offset
        times = [self.timeline.word_times(offset + word.start, offset + word.end) for word in words]
        placed = (
            replace(word, start=start, end=end)
            for word, (start, end) in zip(words, in_order(times, *self._bounds()), strict=True)
        )
        return [tuple(islice(placed, len(phrase_words))) for phrase_words in words_by_phrase]

    def _logprobs(self) -> list[tuple[TokenLogprob, ...]]:
        """Return the log probabilities of the tokens of each phrase."""
        if not self.token_logprobs or self.alignment is None:
            return [()] * len(self.phrases)
        remaining = iter(self.alignment.text_token_probs)
        vocabulary = self.tokenizer.tokenizer
        return [
            tuple(token_logprob(vocabulary.id_to_token(token), next(remaining)) for token in text)
            for text in self._texts
        ]


def _says_something(text: str) -> bool:
    """Return False for text of punctuation alone, which Whisper writes for music and pauses."""
    return any(character.isalnum() for character in text)
