"""Utterances begin with speech and end after a silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.realtime.detection import FRAME_SAMPLES, SpeechStarted, SpeechStopped, UtteranceDetector

if TYPE_CHECKING:
    from collections.abc import Iterable


def changes(probabilities: Iterable[float], *, silence_ms: int = 96, position: int = 0) -> list[tuple[str, int]]:
    """Return the changes with their positions in frames."""
    detector = UtteranceDetector(threshold=0.5, silence_ms=silence_ms, position=position)
    found: list[tuple[str, int]] = []
    for probability in probabilities:
        match detector.add(probability):
            case SpeechStarted(start):
                found.append(("started", start // FRAME_SAMPLES))
            case SpeechStopped(end):
                found.append(("stopped", end // FRAME_SAMPLES))
    return found


def test_speech_starts_and_stops_after_the_silence() -> None:
    assert changes([0, 0, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]) == [("started", 2), ("stopped", 7)]


def test_positions_count_from_the_beginning_of_the_session() -> None:
    assert changes([0.9, 0, 0, 0], position=10 * FRAME_SAMPLES) == [("started", 10), ("stopped", 14)]


def test_pause_that_is_shorter_does_not_end_an_utterance() -> None:
    assert changes([0.9, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1]) == [("started", 0), ("stopped", 7)]


@pytest.mark.parametrize(
    ("probabilities", "started"),
    [([0.6, 0, 0.6, 0], False), ([0.6, 0.6], True), ([0.85], True), ([0.4] * 9, False)],
)
def test_a_single_doubtful_frame_is_no_speech(probabilities: list[float], *, started: bool) -> None:
    assert bool(changes(probabilities)) is started


def test_doubtful_frames_continue_an_utterance() -> None:
    assert changes([0.9, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]) == [("started", 0)]
    assert changes([0.9, 0.1, 0.4, 0.1]) == [("started", 0), ("stopped", 4)]  # but they are no speech either


def test_further_utterance_starts_after_a_stop() -> None:
    assert [kind for kind, _ in changes([0.9, 0, 0, 0, 0.9, 0, 0, 0])] == ["started", "stopped"] * 2
