"""An engine that transcribes with the demo model."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.transcription.admission import FrontEnd
from app.transcription.engine import WhisperTranscriber
from app.transcription.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.transcription.decoding import Decoder
    from app.transcription.diarizer import Diarizer
    from app.transcription.whisper import WhisperModel


@asynccontextmanager
async def transcribing(
    model: WhisperModel, decoder: Decoder, *, batch_size: int = 8, diarizer: Diarizer | None = None
) -> AsyncIterator[WhisperTranscriber]:
    """Yield a transcriber with one slot. Its loops must still run at the end."""
    deaths: list[BaseException] = []
    front_end = FrontEnd(decoder, slots=1, diarizer=diarizer)
    transcriber = WhisperTranscriber(
        [model], front_end=front_end, slots=Slots(1), batch_size=batch_size, on_death=deaths.append
    )
    try:
        yield transcriber
    finally:
        await transcriber.close()
        if diarizer is not None:
            diarizer.close()
    assert deaths == []
