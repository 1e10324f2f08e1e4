"""Letting the model go on where it stopped before the end of the speech, or left some of it out.

Whisper often ends a window with a pair of timestamps although somebody goes on speaking: it expects the next window to
begin there. Decoded alone, the few seconds that are left have no context, and are the worst text of a recording. So the
model gets the last phrase again, as the beginning of its answer, and continues it with the whole window in view. That
takes less time than another pass of the encoder.

Sometimes the model also skips sentences: the next phrase begins, or the text ends, although voice activity detection
has heard seconds of speech after the last one. From there on the window is decoded again.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from app.transcription.segments import MIN_REST_FRAMES, SECONDS_PER_FRAME, frames_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.transcription.fallback import Decoding, Thresholds
    from app.transcription.window import Window

#: How often a window is continued. Further speech is decoded alone.
MAX_CONTINUATIONS: Final = 3
#: The least speech, in seconds, that is worth it.
_MIN_SPEECH_SECONDS: Final = 0.25
#: The least speech without text, in seconds, that shows that some was skipped. Phrases end up to a second too early.
_SKIPPED_SECONDS: Final = 3.0


def unfinished_phrase(
    window: Window, decoding: Decoding, *, first_timestamp: int, thresholds: Thresholds
) -> tuple[int, ...] | None:
    """Return the tokens of the phrase to continue, or None if the text of the window is complete or not trustworthy."""
    tokens = decoding.tokens
    is_timestamp = [token >= first_timestamp for token in tokens]
    if is_timestamp[-2:] != [True, True] or decoding.temperature > 0 or not window.has_speech:
        return None
    if decoding.is_silence(thresholds) or not decoding.is_acceptable(thresholds):
        return None
    end = frames_at(tokens[-1], first_timestamp)
    if window.frames - end < MIN_REST_FRAMES or _speech_seconds(window, end, window.frames) < _MIN_SPEECH_SECONDS:
        return None
    starts = [index for index in range(1, len(tokens) - 1) if is_timestamp[index - 1] and is_timestamp[index]]
    phrase = tokens[starts[-1] if starts else 0 :]
    return None if all(token >= first_timestamp for token in phrase) else phrase


def before_skipped_speech(window: Window, tokens: tuple[int, ...], *, first_timestamp: int) -> tuple[int, ...]:
    """Return the tokens before the first speech that has no text, ending with a pair of timestamps; all if it has."""
    if not window.has_speech:
        return tokens
    for index in range(1, len(tokens)):
        is_end = tokens[index] >= first_timestamp > tokens[index - 1]
        if not is_end or (index + 1 < len(tokens) and tokens[index + 1] < first_timestamp):
            continue
        end = frames_at(tokens[index], first_timestamp)
        following = frames_at(tokens[index + 1], first_timestamp) if index + 2 < len(tokens) else window.frames
        is_open = index + 2 == len(tokens)  # the model itself says that there is more
        if not is_open and _speech_seconds(window, end, following) >= _SKIPPED_SECONDS:
            return (*tokens[: index + 1], tokens[index])
    return tokens


def _speech_seconds(window: Window, first: int, last: int) -> float:
    """Return the seconds between two frames of a window in which somebody speaks."""
    length = (min(last, window.frames) - first) * SECONDS_PER_FRAME
    pauses = window.timeline.pauses_after((window.seek + first) * SECONDS_PER_FRAME)
    return length - sum(min(end, length) - start for start, end in pauses if start < length)


def continued(
    decoding: Decoding,
    tokens: Sequence[int],
    logprob: float,
    *,
    first_timestamp: int,
    thresholds: Thresholds,
    decode: Callable[[Sequence[int]], str],
) -> Decoding | None:
    """Return a decoding with further ``tokens``, or None if these can't be trusted.

    ``logprob`` is the sum of their logarithms of probabilities, the end of the text included. ``decode`` returns the
    text of tokens.
    """
    text = [token for token in tokens if token < first_timestamp]
    times = [token for token in (decoding.tokens[-1], *tokens) if token >= first_timestamp]
    if not text or any(later < earlier for earlier, later in pairwise(times)):
        return None
    if logprob / (len(tokens) + 1) < thresholds.log_prob_threshold:
        return None
    together = (*decoding.tokens, *tokens)
    result = replace(
        decoding,
        tokens=together,
        text=decode(together).strip(),
        avg_logprob=(decoding.total_logprob + logprob) / (len(together) + 1),
    )
    return None if result.is_repetitive(thresholds) else result
