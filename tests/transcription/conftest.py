"""Fixtures for the tests of transcription."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.transcription.decoding import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def decoder() -> Iterator[Decoder]:
    """A decoder that accepts up to twelve hours of audio. Its server is started once."""
    decoder = Decoder(max_seconds=12 * 3600)
    yield decoder
    decoder.close()
