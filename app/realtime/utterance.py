"""An utterance: audio that becomes one item, from the start of speech to its commit.

It is divided into windows, each of which the model can take at once. Everything here belongs to the event loop.
Positions are samples at 16 kHz from the beginning of the session.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import numpy as np

from app.realtime.audio import RATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.realtime.audio import Samples
    from app.realtime.config import SessionConfig

#: A window ends at the first pause after this time,
_LONG_SAMPLES: Final = 20 * RATE
#: which lasts at least as long as a pause in which files are divided,
_PAUSE_SAMPLES: Final = 98 * RATE // 1000
#: (0.2 s divide guesses, which are shorter,)
_GUESS_PAUSE_SAMPLES: Final = RATE // 5
#: or, if nobody pauses, after this time: the model takes 30 s.
_LONGEST_SAMPLES: Final = 28 * RATE


class LiveWindow:
    """A window while it is spoken, from ``start`` on; ``spoken_to`` is the end of the speech in it so far.

    ``resumed_at`` is where speech went on after the last pause that is long enough to divide guesses.
    """

    def __init__(self, start: int) -> None:
        self.start = self.spoken_to = self.resumed_at = start
        self.samples = 0
        self.has_ended = False
        self._pieces: list[Samples] = []

    @property
    def end(self) -> int:
        return self.start + self.samples

    @property
    def audio(self) -> Samples:
        """The samples so far, shape ``(samples,)``."""
        self._pieces = [np.concatenate(self._pieces)] if self._pieces else []
        return self._pieces[0] if self._pieces else np.zeros(0, np.int16)

    def audio_between(self, start: int, end: int) -> Samples:
        """Return the samples between two positions."""
        return self.audio[start - self.start : end - self.start]

    def is_due(self, position: int) -> bool:
        """Return True if speech has reached ``position``, or the window has ended."""
        return self.has_ended or self.spoken_to >= position

    def add(self, samples: Samples, *, spoken_to: int) -> None:
        """Add audio, in which speech ends at ``spoken_to``."""
        before = self.end
        self._pieces.append(samples)
        self.samples += len(samples)
        spoken_to = min(spoken_to, self.end)
        if spoken_to > self.spoken_to:
            if before - self.spoken_to >= _GUESS_PAUSE_SAMPLES:
                self.resumed_at = before
            self.spoken_to = spoken_to


class Utterance:
    """The audio of the item ``item_id``, transcribed with the ``config`` that the session had at its beginning.

    ``shown`` is the text of the item's deltas. A discarded utterance has no further events.
    """

    def __init__(self, item_id: str, config: SessionConfig, *, start: int) -> None:
        self.item_id = item_id
        self.config = config
        self.options = config.options
        self.start = start
        self.shown = ""
        self.has_ended = self.is_discarded = False
        self._end = start
        self._windows = [LiveWindow(start)]
        self._changed = asyncio.Event()

    @property
    def samples(self) -> int:
        """The number of samples so far."""
        return self._end - self.start

    @property
    def end(self) -> int:
        return self._end

    @property
    def window(self) -> LiveWindow | None:
        """The first window that is not transcribed yet; None after the last one of an utterance that has ended."""
        return self._windows[0] if self._windows else None

    @property
    def waiting_samples(self) -> int:
        """The samples of windows that have ended and are not transcribed yet."""
        return sum(window.samples for window in self._windows if window.has_ended)

    def add(self, samples: Samples, *, spoken_to: int) -> None:
        """Add audio, in which speech ends at ``spoken_to``; a window that is long ends in a pause."""
        window = self._windows[-1]
        window.add(samples, spoken_to=spoken_to)
        self._end = window.end
        is_pause = window.end - spoken_to >= _PAUSE_SAMPLES
        if window.samples >= (_LONG_SAMPLES if is_pause else _LONGEST_SAMPLES):
            window.has_ended = True
            self._windows.append(LiveWindow(window.end))
        self._notify()

    def finish(self) -> None:
        """End the utterance."""
        self._windows[-1].has_ended = self.has_ended = True
        self._notify()

    def discard(self) -> None:
        """End the utterance, because the client has cleared its audio."""
        self.is_discarded = True
        self.finish()

    def forget(self, window: LiveWindow) -> None:
        """Release the audio of a window that has ended and is transcribed."""
        self._windows.remove(window)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until audio or an end makes the condition true."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
