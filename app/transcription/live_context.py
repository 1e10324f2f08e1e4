"""The context of live audio: the end of what was said before it, as sound and as text.

An utterance has fewer errors if the model decodes it in one window with the ones before, and continues their text,
which stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, takewhile
from typing import TYPE_CHECKING, Final

import numpy as np

from app.domain.languages import language_code
from app.transcription.segments import Phrase
from app.transcription.vad import SAMPLE_RATE, Span, WindowSpan

if TYPE_CHECKING:
    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.vad import Samples

#: The most context. 10 s avoid less than half of the errors that 20 s avoid.
_MAX_SAMPLES: Final = 24 * SAMPLE_RATE
#: The most tokens of its text, so that as many are left for what follows.
_MAX_TOKENS: Final = 112
#: The audio that is kept before the first phrase, unless another one is said there.
_EDGE_SECONDS: Final = 0.3
#: Samples from one of Whisper's timestamps to the next: a context is a multiple of them, so that it ends at one.
_TIMESTAMP_SAMPLES: Final = SAMPLE_RATE // 50
#: Fewer words can really be said twice.
_REPEATED_WORDS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class LiveContext:
    """Samples (16 kHz) that end where the next ones begin, and the ``phrases`` that are said in them.

    Times are seconds from the end of the samples, so they are negative. All of it was transcribed with the same
    ``options`` and is in one ``language``.
    """

    samples: Samples = field(default_factory=lambda: np.zeros(0, np.int16))
    phrases: tuple[Phrase, ...] = ()
    text: str = ""
    language: str | None = None
    options: TranscriptionOptions | None = None

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    @property
    def span(self) -> WindowSpan:
        """The samples as a part of a recording that begins after them. What is between phrases is a pause."""
        first = -len(self.samples)
        times = chain.from_iterable((phrase.start, phrase.end) for phrase in self.phrases)
        edges = [first, *(round(time * SAMPLE_RATE) for time in times), 0]
        pauses = (Span(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))
        return WindowSpan((Span(first, 0),), pauses=tuple(pause for pause in pauses if pause.samples > 0))

    @property
    def phrases_from_start(self) -> list[Phrase]:
        """The phrases with times in seconds from the first sample."""
        return [_moved(phrase, self.seconds) for phrase in self.phrases]

    def followed_by(self, samples: Samples, transcript: Transcript, options: TranscriptionOptions) -> LiveContext:
        """Return the context of what follows ``samples``, which were transcribed with these options.

        Text that the model found improbable is no context, so that its errors do not go on.
        """
        if any(segment.uncertain for segment in transcript.segments):
            return NO_CONTEXT
        language = language_code(transcript.language) if transcript.segments else self.language
        before = self if (self.options, self.language) == (options, language) else NO_CONTEXT
        if not transcript.segments:
            return before
        seconds = len(samples) / SAMPLE_RATE
        return LiveContext(
            samples=np.concatenate([before.samples, samples]),
            phrases=(
                *(_moved(phrase, -seconds) for phrase in before.phrases),
                *(Phrase(part.start - seconds, part.end - seconds, part.tokens) for part in transcript.segments),
            ),
            text=transcript.text,
            language=language,
            options=options,
        ).last(_MAX_SAMPLES)

    def last(self, count: int) -> LiveContext:
        """Return the last phrases, as many as are said in ``count`` samples, with their sound."""
        earliest = -(count // _TIMESTAMP_SAMPLES) * _TIMESTAMP_SAMPLES / SAMPLE_RATE
        tokens = accumulate(len(phrase.tokens) for phrase in reversed(self.phrases))
        fitting = [
            phrase.start >= earliest and total <= _MAX_TOKENS
            for phrase, total in zip(reversed(self.phrases), tokens, strict=True)
        ]
        first = len(fitting) - len(list(takewhile(bool, fitting)))
        dropped, kept = self.phrases[:first], self.phrases[first:]
        if not kept:
            return NO_CONTEXT
        edge = max(earliest, -self.seconds, kept[0].start - _EDGE_SECONDS, dropped[-1].end if dropped else earliest)
        steps = math.ceil(-min(edge, kept[0].start) * SAMPLE_RATE / _TIMESTAMP_SAMPLES)
        samples = min(steps, count // _TIMESTAMP_SAMPLES, len(self.samples) // _TIMESTAMP_SAMPLES) * _TIMESTAMP_SAMPLES
        return replace(
            self,
            samples=self.samples[len(self.samples) - samples :],
            phrases=tuple(_after(phrase, -samples / SAMPLE_RATE) for phrase in kept),
        )

    def is_continued_by(self, transcript: Transcript) -> bool:
        """Return True if the text of what follows is certain, and not only the text before it again."""
        text = transcript.text
        is_repeated = text == self.text and len(text.split()) >= _REPEATED_WORDS
        return bool(text) and not is_repeated and not any(segment.uncertain for segment in transcript.segments)


def _moved(phrase: Phrase, seconds: float) -> Phrase:
    return replace(phrase, start=phrase.start + seconds, end=phrase.end + seconds)


def _after(phrase: Phrase, earliest: float) -> Phrase:
    """Return a phrase without what is said of it before a time."""
    return replace(phrase, start=max(phrase.start, earliest), end=max(phrase.end, earliest))


#: The context of the first utterance.
NO_CONTEXT: Final = LiveContext()
