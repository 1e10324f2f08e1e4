"""Segments for tests, with plausible values for all fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.domain.transcript import Segment

if TYPE_CHECKING:
    from app.domain.transcript import Word


def a_segment(
    text: str,
    start: float = 0.0,
    end: float = 1.0,
    *,
    number: int = 0,
    tokens: tuple[int, ...] = (50364, 2425, 11),
    words: tuple[Word, ...] = (),
    channel: int | None = None,
) -> Segment:
    return Segment(
        id=number,
        seek=0,
        start=start,
        end=end,
        text=text,
        tokens=tokens,
        temperature=0.0,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.01,
        words=words,
        channel=channel,
    )
