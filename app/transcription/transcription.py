"""One transcription inside the engine: its windows, its rank and its slot, from its first window to its end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from app.transcription.language_detection import ChannelLanguage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.transcription.window import DecodeKey, Window

#: A transcription is short if all its windows are known and at most this many are left: a minute of speech.
SHORT_WINDOWS: Final = 2


class Rank(IntEnum):
    """The order in which transcriptions are served, lowest first.

    Short ones go before long ones, so that a clip does not wait for files of many hours; among those, synchronous
    requests, for which a client holds its connection open, go before jobs. Live audio goes before everything, and the
    text of what was said before guesses at what is being said.
    """

    LIVE = 0
    LIVE_GUESS = 1
    SHORT_SYNCHRONOUS = 2
    SHORT = 3
    LONG_SYNCHRONOUS = 4
    LONG = 5

    @property
    def is_short(self) -> bool:
        return self <= Rank.SHORT


@dataclass(slots=True, kw_only=True, eq=False)
class Transcription:
    """The state of a request or job that the scheduler and the batcher keep. It belongs to the event loop.

    ``languages`` maps channels to what is known of their languages. ``ready`` windows wait for the model, in
    order of time; those ``in_flight`` are on it. ``outstanding`` counts both, ``unwritten`` the windows that the
    model has finished and whose segments are being made. ``complete`` means that no more windows will be submitted,
    ``known_long`` that the transcription is not short, although not all its windows are known, and ``dropped`` that
    nobody needs it any longer. ``number`` is the order of arrival; ``served`` counts the windows that were decoded,
    starting from the lowest count among those that were there before.

    Subclasses override the callbacks, which do nothing here.
    """

    synchronous: bool = False
    languages: defaultdict[int, ChannelLanguage] = field(default_factory=lambda: defaultdict(ChannelLanguage))
    ready: list[Window] = field(default_factory=list)
    in_flight: set[Window] = field(default_factory=set)
    outstanding: int = 0
    unwritten: int = 0
    complete: bool = False
    known_long: bool = False
    dropped: bool = False
    has_slot: bool = False
    number: int = 0
    served: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _error: Exception | None = field(default=None, init=False)

    def on_slot_granted(self) -> None:
        """Handle receiving a slot."""

    def on_slot_taken_back(self) -> None:
        """Handle losing the slot to a transcription that comes first."""

    def on_window(self, window: Window) -> None:
        """Handle a window that is completely decoded."""

    @property
    def rank(self) -> Rank:
        if self.complete and self.outstanding <= SHORT_WINDOWS:
            return Rank.SHORT_SYNCHRONOUS if self.synchronous else Rank.SHORT
        return Rank.LONG_SYNCHRONOUS if self.synchronous else Rank.LONG

    @property
    def may_turn_out_short(self) -> bool:
        """True while nothing is known about its length."""
        return not self.complete and not self.outstanding and not self.known_long

    def available_windows(self, key: DecodeKey | None = None) -> Iterator[Window]:
        """Yield the windows that can go onto the model now, in order; with ``key`` only those that share it.

        While the language of a channel is not settled, its windows go one by one: the others take on what is detected.
        Windows with languages of their own don't wait for it.
        """
        undetected = {window.channel for window in self.in_flight if window.shares_language}
        for window in self.ready:
            if window.channel in undetected:
                continue
            if window.shares_language:
                window.language = self.languages[window.channel].code
            if window.shares_language:
                undetected.add(window.channel)
            if key is None or window.key == key:
                yield window

    def note_language(self, window: Window) -> None:
        """Settle the language of a channel if a window of it that comes from the model is certain."""
        if window.language is not None and window.uncertain_language is None:
            self.languages[window.channel].settle(window.language)

    def count_language(self, window: Window) -> None:
        """Count the language of a finished window if it was not certain."""
        if (guess := window.uncertain_language) is not None:
            self.languages[window.channel].add_uncertain(guess, has_text=window.has_text)

    def grant_slot(self) -> None:
        self.has_slot = True
        self.on_slot_granted()

    def take_slot_back(self) -> None:
        self.has_slot = False
        self.on_slot_taken_back()

    def fail(self, error: Exception) -> None:
        """End the transcription with an error, unless it has ended, once the segments that are being made are there."""
        if not self._ended.is_set():
            self._error = self._error or error
        self.end_if_done()

    def end_if_done(self) -> None:
        """End the transcription if it has failed, or is complete, and all its finished windows have their segments."""
        is_over = self._error is not None or (self.complete and not self.outstanding)
        if is_over and not self.unwritten:
            self._ended.set()

    async def wait_until_ended(self) -> None:
        """Wait for the end and raise the error, if there was one."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error
