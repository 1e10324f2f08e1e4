"""Hypothesis strategies for transcripts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from app.domain.transcript import Segment, Task, Transcript, Word

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
