"""A transcription without a recording, which records what the scheduler and the batcher do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.transcription.transcription import Transcription

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.transcription.window import Window


class ObservedTranscription(Transcription):
    """Records its slot changes and finished windows, and passes each of those to ``on_finished``."""

    def __init__(self, *, synchronous: bool = False, on_finished: Callable[[Window], None] | None = None) -> None:
        super().__init__(synchronous=synchronous)
        self.slot_changes: list[str] = []
        self.finished: list[int] = []
        self._on_finished = on_finished

    def on_slot_granted(self) -> None:
        self.slot_changes.append("granted")

    def on_slot_taken_back(self) -> None:
        self.slot_changes.append("taken back")

    def on_window(self, window: Window) -> None:
        self.finished.append(window.number)
        if self._on_finished is not None:
            self._on_finished(window)
