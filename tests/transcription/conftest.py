"""What the tests of transcription share."""

from __future__ import annotations

import pytest

from app.transcription.decoding import Decoder


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(max_seconds=12 * 3600)
