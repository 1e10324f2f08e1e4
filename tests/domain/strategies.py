"""Hypothesis strategies for transcripts."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.domain.transcript import Segment, Task, Transcript, Turn, Word

#: Settings for tests of pure code, which must not fail on a busy machine. The tier sets the number of examples.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Up to about 280 hours.
SECONDS = st.floats(min_value=0, max_value=1_000_000, allow_nan=False)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)

#: Characters with a special meaning in some format, and some of other alphabets. A fixed choice is also fast to draw.
ALPHABET = "->-\n\r\t\u2028\x85\x0b\x1c\x00 \xa0\u200baZ09.,:;'\"\\/{}[]<&?=%_ßüΩ你😀"
TEXTS = st.text(alphabet=ALPHABET, max_size=12)

WORDS = st.builds(Word, word=TEXTS, start=SECONDS, end=SECONDS, probability=NUMBERS)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Draw segments in order that do not overlap, as the model generates them."""
    times = sorted(draw(st.lists(SECONDS, max_size=8)))
    spans = list(zip(times[::2], times[1::2], strict=False))
    segments = tuple(
        Segment(
            id=number,
            seek=draw(st.integers(min_value=0, max_value=10**8)),
            start=start,
            end=end,
            text=draw(TEXTS),
            tokens=tuple(draw(st.lists(st.integers(min_value=0, max_value=60_000), max_size=4))),
            temperature=draw(NUMBERS),
            avg_logprob=draw(NUMBERS),
            compression_ratio=draw(NUMBERS),
            no_speech_prob=draw(NUMBERS),
            words=tuple(draw(st.lists(WORDS, max_size=3))),
        )
        for number, (start, end) in enumerate(spans)
    )
    return Transcript(
        task=draw(st.sampled_from(Task)),
        language=draw(st.sampled_from(["english", "german", "haitian creole"])),
        duration=draw(SECONDS),
        segments=segments,
    )


SPEAKERS = st.sampled_from(("A", "B", "Anna <&> Lena", "ann-->\ne", "李"))


@st.composite
def turns(draw: st.DrawFn, *, min_size: int = 0, seconds: st.SearchStrategy[float] = SECONDS) -> tuple[Turn, ...]:
    """Draw turns in order of their starts, some of which overlap."""
    times = [sorted(draw(st.tuples(seconds, seconds))) for _ in range(draw(st.integers(min_size, 6)))]
    return tuple(Turn(start=start, end=end, speaker=draw(SPEAKERS)) for start, end in sorted(times))


@st.composite
def conversations(draw: st.DrawFn, *, texts: st.SearchStrategy[str] = TEXTS) -> Transcript:
    """Draw a transcript in which each word has a speaker, and texts are those of the words."""
    transcript = draw(transcripts())
    segments: list[Segment] = []
    for segment in transcript.segments:
        words = draw(st.lists(st.builds(replace, WORDS, word=texts, speaker=SPEAKERS), max_size=6))
        text = "".join(word.word for word in words)
        speaker = words[0].speaker if words else draw(SPEAKERS)
        segments.append(replace(segment, text=text, words=tuple(words), speaker=speaker))
    return replace(transcript, segments=tuple(segments), turns=draw(turns()))
