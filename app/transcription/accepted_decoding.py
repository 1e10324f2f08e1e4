"""A decoding that is kept, from its tokens to segments with times in the recording.

Making the segments takes no device: a batch of 16 windows with words takes about 50 ms of a core, in which the device
can have the next batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from app.domain.transcript import Segment
from app.transcription.segments import SECONDS_PER_FRAME, Phrase, token_logprob
from app.transcription.word_times import AlignedToken, aligned_tokens, are_usable, hold_within, spread, words_of_phrases

if TYPE_CHECKING:
    from app.domain.transcript import TokenLogprob, Word
    from app.transcription.fallback import Decoding
    from app.transcription.window import Timeline


@dataclass(slots=True, kw_only=True)
class AcceptedDecoding:
    """A decoding of a window that is kept.

    ``decoding`` is the best one of the window, ``temperature`` that of the last one, as in faster-whisper. It is
    ``uncertain`` if none was acceptable. ``phrases``
    cover ``frames_done`` of the frames that the window had left from ``seek`` on. ``tokenizer`` is faster-whisper's for
    the window's language and task. ``text_tokens`` are those of all phrases without timestamps. ``alignment`` is
    CTranslate2's ``WhisperAlignmentResult`` for them, or None if there is none.
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
    alignment: Any | None = None
    text_tokens: list[int] = field(init=False)
    _texts: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        end_of_text = self.tokenizer.eot
        self._texts = [[token for token in phrase.tokens if token < end_of_text] for phrase in self.phrases]
        self.text_tokens = list(chain.from_iterable(self._texts))

    @property
    def has_estimated_words(self) -> bool:
        """True if the times of words are shares of their phrase's, because nothing better is known."""
        return self.word_timestamps and bool(self.text_tokens) and not are_usable(self._aligned_tokens())

    def segments(self) -> tuple[Segment, ...]:
        """Return a segment for each phrase that has text and a length, numbered from 0."""
        tokenizer, timeline = self.tokenizer, self.timeline
        offset = self.seek * SECONDS_PER_FRAME
        seek = round(timeline.word_times(offset, offset)[0] / SECONDS_PER_FRAME)
        segments: list[Segment] = []
        for phrase, words, logprobs in zip(self.phrases, self._words(), self._logprobs(), strict=True):
            text = tokenizer.decode(phrase.tokens)
            if not text.strip() or phrase.end <= phrase.start:
                continue
            start, end = timeline.phrase_times(offset + phrase.start, offset + phrase.end)
            segments.append(
                Segment(
                    id=len(segments),
                    seek=seek,
                    start=round(start, 3),
                    end=round(end, 3),
                    text=text,
                    tokens=phrase.tokens,
                    temperature=self.temperature,
                    avg_logprob=self.decoding.avg_logprob,
                    compression_ratio=self.decoding.compression_ratio,
                    no_speech_prob=self.decoding.no_speech_prob,
                    words=tuple(_in_recording(word, offset, timeline) for word in words),
                    logprobs=logprobs,
                    uncertain=self.uncertain,
                )
            )
        return tuple(segments)

    def _aligned_tokens(self) -> list[AlignedToken]:
        if self.alignment is None:
            return [AlignedToken(math.nan, math.exp(self.decoding.avg_logprob))] * (len(self.text_tokens) + 1)
        return aligned_tokens(self.alignment.alignments, self.alignment.text_token_probs)

    def _words(self) -> list[tuple[Word, ...]]:
        """Return the words of each phrase, with times from the first frame that was decoded."""
        if not self.word_timestamps or not self.text_tokens:
            return [()] * len(self.phrases)
        tokens = self._aligned_tokens()
        words, word_tokens = self.tokenizer.split_to_word_tokens([*self.text_tokens, self.tokenizer.eot])
        words_by_phrase = words_of_phrases(
            words[:-1],
            [len(tokens) for tokens in word_tokens[:-1]],
            tokens,
            [len(tokens) for tokens in self._texts],
        )
        place = hold_within if are_usable(tokens) else spread
        return [
            place(phrase_words, phrase.start, phrase.end)
            for phrase_words, phrase in zip(words_by_phrase, self.phrases, strict=True)
        ]

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


def _in_recording(word: Word, offset: float, timeline: Timeline) -> Word:
    start, end = timeline.word_times(offset + word.start, offset + word.end)
    return replace(word, start=round(start, 3), end=round(end, 3))
