"""A model that waits until a test lets it go on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from app.transcription.whisper import WhisperModel


class Held:
    """Makes a model wait until ``open`` is set, and counts the windows that it has ``decoded`` since."""

    def __init__(self, model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.decoded = 0
        encode, decode = model.encode, model.decode

        def held_encode(windows: Any) -> None:
            assert self.open.wait(120)
            encode(windows)

        def held_decode(windows: Any) -> Any:
            assert self.open.wait(120)
            self.decoded += len(windows)
            return decode(windows)

        monkeypatch.setattr(model, "encode", held_encode)
        monkeypatch.setattr(model, "decode", held_decode)
