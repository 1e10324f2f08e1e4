"""The lag of a model's alignment: the time by which it puts the borders of words later than they are.

It is a property of the model, or rather of the attention heads that align: in the median of recordings of people it is
-0.05 s for Whisper's base and 0.10 s for tiny.en, and the bundled recordings of speech synthesizers, which report the
times of their words, show -0.07 s and 0.11 s.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from app.domain.transcript import Word
from app.transcription.segments import SECONDS_PER_TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER: Final = Path(__file__).with_name("alignment_sample")
#: English speech, at most 30 s.
KNOWN_SPEECH: Final = _FOLDER / "speech.ogg"
#: Words are adjacent if at most this much silence, in seconds, is between them.
_ADJACENT_SECONDS: Final = 0.03
#: The positions of an alignment are 20 ms apart, so this much of the lag, in seconds, is left.
_UNCERTAIN_SECONDS: Final = SECONDS_PER_TIMESTAMP
#: A larger lag, in seconds, comes from a model that does not understand the recording.
_LARGEST_LAG: Final = 0.2


def known_words() -> tuple[Word, ...]:
    """Return the words of the bundled speech."""
    words = json.loads((_FOLDER / "words.json").read_text())
    return tuple(Word(word=f" {text}", start=start, end=end, probability=1.0) for text, start, end in words)


def lag_of(aligned: Sequence[Word], known: Sequence[Word]) -> float:
    """Return by how many seconds words are aligned too late, in the median of the borders between adjacent words.

    The last 20 ms of the lag don't count. It is 0 if the texts differ or the lag would be implausible.
    """
    if [word.word for word in aligned] != [word.word for word in known]:
        return 0.0
    lags = [
        word.end - known[index].end
        for index, word in enumerate(aligned[:-1])
        if known[index + 1].start - known[index].end <= _ADJACENT_SECONDS
    ]
    lag = median(lags) if lags else 0.0
    if abs(lag) > _LARGEST_LAG:
        return 0.0
    return math.copysign(max(0.0, abs(lag) - _UNCERTAIN_SECONDS), lag)
