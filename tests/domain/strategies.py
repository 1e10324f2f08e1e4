"""Hypothesis strategies for transcripts."""

from __future__ import annotations

from hypothesis import strategies as st

from app.domain.transcript import Segment, Task, Transcript, Word

#: Up to about 280 hours.
SECONDS = st.floats(min_value=0, max_value=1_000_000, allow_nan=False)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)

#: What a model might write: any text, and above all what would break a cue.
TEXTS = st.text(max_size=12) | st.text(alphabet="->\n\r\u2028\x85\x0b ab", max_size=12)

WORDS = st.builds(Word, word=TEXTS, start=SECONDS, end=SECONDS, probability=NUMBERS)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Segments in order, that do not overlap, as the model gives them."""
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
