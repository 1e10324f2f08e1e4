"""One accepted decoding of a batch, from its tokens to segments with times in the recording."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from app.domain.transcript import Segment
from app.transcription.segments import SECONDS_PER_FRAME, Phrase, token_logprob
from app.transcription.word_times import AlignedToken, aligned_tokens, are_usable, hold_within, spread, words_of_phrases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.transcript import TokenLogprob, Word
    from app.transcription.fallback import Decoding
    from app.transcription.window import Timeline, Window


@dataclass(slots=True, kw_only=True)
class AcceptedRow:
    """A row of a batch whose text is kept.

    ``index`` is its position in the batch. ``decoding`` is the best one of the window, ``temperature`` that of the
    last one, as in faster-whisper. ``phrases`` cover ``frames_done`` of the window's frames. ``tokenizer`` is
    faster-whisper's for the window's language and task. ``text_tokens`` are those of all phrases without timestamps.
    ``has_estimated_words`` is True if the times of words are shares of their phrase's, because nothing better is known.
    """

    index: int
    window: Window
    decoding: Decoding
    temperature: float
    phrases: list[Phrase]
    frames_done: int
    tokenizer: Any
    has_estimated_words: bool = field(init=False, default=False)
    text_tokens: list[int] = field(init=False)
    _texts: list[list[int]] = field(init=False)
    _words: list[tuple[Word, ...]] = field(init=False)
    _logprobs: list[tuple[TokenLogprob, ...]] = field(init=False)

    def __post_init__(self) -> None:
        end_of_text = self.tokenizer.eot
        self._texts = [[token for token in phrase.tokens if token < end_of_text] for phrase in self.phrases]
        self.text_tokens = list(chain.from_iterable(self._texts))
        self._words = [()] * len(self.phrases)
        self._logprobs = [()] * len(self.phrases)

    def add_alignment(self, alignment: Any | None) -> None:
        """Add words and log probabilities, as the window wants them.

        ``alignment`` is CTranslate2's ``WhisperAlignmentResult`` for ``text_tokens``, or None if there is none.
        """
        if self.window.word_timestamps:
            self._words = self._words_of_phrases(alignment)
        if self.window.token_logprobs and alignment is not None:
            self._logprobs = self._token_logprobs(alignment.text_token_probs)

    def segments(self) -> tuple[Segment, ...]:
        """Return a segment for each phrase that has text and a length, numbered from 0."""
        window, tokenizer, timeline = self.window, self.tokenizer, self.window.timeline
        offset = window.seek * SECONDS_PER_FRAME
        seek = round(timeline.word_times(offset, offset)[0] / SECONDS_PER_FRAME)
        segments: list[Segment] = []
        for phrase, words, logprobs in zip(self.phrases, self._words, self._logprobs, strict=True):
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
                )
            )
        return tuple(segments)

    def _words_of_phrases(self, alignment: Any | None) -> list[tuple[Word, ...]]:
        tokenizer = self.tokenizer
        if alignment is None:
            probability = math.exp(self.decoding.avg_logprob)
            tokens = [AlignedToken(0.0, probability)] * (len(self.text_tokens) + 1)
        else:
            tokens = aligned_tokens(alignment.alignments, alignment.text_token_probs)
        self.has_estimated_words = alignment is None or not are_usable(tokens)
        words, word_tokens = tokenizer.split_to_word_tokens([*self.text_tokens, tokenizer.eot])
        words_by_phrase = words_of_phrases(
            words[:-1],
            [len(tokens) for tokens in word_tokens[:-1]],
            tokens,
            [len(tokens) for tokens in self._texts],
        )
        place = spread if self.has_estimated_words else hold_within
        return [
            place(phrase_words, phrase.start, phrase.end)
            for phrase_words, phrase in zip(words_by_phrase, self.phrases, strict=True)
        ]

    def _token_logprobs(self, probabilities: Sequence[float]) -> list[tuple[TokenLogprob, ...]]:
        remaining = iter(probabilities)
        vocabulary = self.tokenizer.tokenizer
        return [
            tuple(token_logprob(vocabulary.id_to_token(token), next(remaining)) for token in text)
            for text in self._texts
        ]


def _in_recording(word: Word, offset: float, timeline: Timeline) -> Word:
    start, end = timeline.word_times(offset + word.start, offset + word.end)
    return replace(word, start=round(start, 3), end=round(end, 3))
