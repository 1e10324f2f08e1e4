"""An utterance is divided into windows that the model can take."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.realtime.audio import RATE
from app.realtime.config import SessionConfig
from app.realtime.utterance import LiveWindow, Utterance
from tests.support.live_models import silence, speech

pytestmark = pytest.mark.anyio


def utterance(start: int = 0) -> Utterance:
    return Utterance("item_1", SessionConfig(), start=start)


def windows(spoken: Utterance) -> list[LiveWindow]:
    """Take all windows of an utterance that has ended."""
    taken: list[LiveWindow] = []
    while (window := spoken.window) is not None:
        taken.append(window)
        spoken.forget(window)
    return taken


def say(spoken: Utterance, seconds: float, *, pause: float = 0.0) -> None:
    """Add speech in parts of 0.1 s, and a pause after it."""
    for _ in range(round(seconds * 10)):
        end = spoken.start + spoken.samples + RATE // 10
        spoken.add(speech(0.1), spoken_to=end)
    if pause:
        spoken.add(silence(pause), spoken_to=spoken.start + spoken.samples)


def test_short_utterance_is_one_window() -> None:
    spoken = utterance(start=800)
    say(spoken, 3.0, pause=0.5)
    window = spoken.window
    assert window is not None
    assert (window.start, window.samples, window.spoken_to) == (800, round(3.5 * RATE), 800 + 3 * RATE)
    assert not window.has_ended
    spoken.finish()
    assert window.has_ended
    assert np.array_equal(window.audio, np.concatenate([speech(3.0), silence(0.5)]))
    assert spoken.waiting_samples == window.samples
    assert windows(spoken) == [window]


def test_long_utterance_is_divided_in_its_first_pause_after_20_s() -> None:
    spoken = utterance()
    say(spoken, 15.0, pause=0.2)
    say(spoken, 10.0, pause=0.2)
    say(spoken, 3.0)
    spoken.finish()
    assert [window.samples / RATE for window in windows(spoken)] == [25.4, 3.0]


def test_utterance_without_a_pause_is_divided_after_28_s() -> None:
    spoken = utterance()
    say(spoken, 60.0)
    spoken.finish()
    assert [window.samples / RATE for window in windows(spoken)] == [28.0, 28.0, 4.0]


def test_window_knows_where_speech_went_on_after_a_pause() -> None:
    spoken = utterance()
    window = spoken.window
    assert window is not None
    say(spoken, 2.0, pause=0.1)
    say(spoken, 1.0)
    assert window.resumed_at == 0
    spoken.add(silence(0.3), spoken_to=spoken.samples)
    say(spoken, 1.0)
    assert window.resumed_at == round(3.4 * RATE)
    assert np.array_equal(window.audio_between(round(3.4 * RATE), window.end), speech(1.0))


def test_only_windows_that_have_ended_wait() -> None:
    spoken = utterance()
    say(spoken, 30.0)
    assert spoken.waiting_samples == 28 * RATE


async def test_waiting_ends_with_what_happens() -> None:
    spoken = utterance()
    waiting = [
        asyncio.create_task(spoken.wait_until(lambda: spoken.samples >= RATE)),
        asyncio.create_task(spoken.wait_until(lambda: spoken.has_ended)),
    ]
    await asyncio.sleep(0)
    say(spoken, 1.0)
    await waiting[0]
    assert not waiting[1].done()
    spoken.finish()
    await waiting[1]
