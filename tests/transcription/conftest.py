"""Fixtures for the tests of transcription."""

from __future__ import annotations

import pytest

from app.transcription.decoding import Decoder


@pytest.fixture
def decoder() -> Decoder:
    """A decoder that accepts up to twelve hours of audio."""
    return Decoder(max_seconds=12 * 3600)
