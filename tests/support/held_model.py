"""The demo model, which works when it is let."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from app.transcription.whisper import WhisperModel


class Held:
    """Holds a model until ``open`` is set; ``decoded`` counts the windows since."""

    def __init__(self, model: WhisperModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.decoded = 0
        encode, decode = model.encode, model.decode

        def held_encode(windows: Any) -> None:
            self.open.wait(30)
            encode(windows)

        def held_decode(windows: Any) -> Any:
            self.open.wait(30)
            self.decoded += len(windows)
            return decode(windows)

        monkeypatch.setattr(model, "encode", held_encode)
        monkeypatch.setattr(model, "decode", held_decode)
