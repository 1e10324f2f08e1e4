"""A Transcriber whose model is loaded while the server answers already."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.domain.errors import ModelLoading
from app.transcription.device import yield_to_requests
from app.transcription.engine import WhisperTranscriber

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.decoding import Decoder
    from app.transcription.gate import Gate
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

logger = logging.getLogger(__name__)

#: When a client may hope for a loaded model, in seconds.
_RETRY_LOADING_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What is known of the model. Before it is loaded ``name`` is what the settings say."""

    name: str
    loaded: bool
    device: str
    compute_type: str
    is_multilingual: bool


class LoadingTranscriber:
    """Refuses work until :meth:`load` has succeeded, then hands it on."""

    def __init__(
        self, load: Callable[[], WhisperModel], *, name: str, compute_type: str, decoder: Decoder, gate: Gate
    ) -> None:
        self._load = load
        self._decoder = decoder
        self._gate = gate
        self._transcriber: WhisperTranscriber | None = None
        self.model = ModelState(name=name, loaded=False, device="cpu", compute_type=compute_type, is_multilingual=True)

    @property
    def active(self) -> int:
        return self._gate.held

    async def load(self) -> None:
        """Loads the model in a thread.

        Raises:
            ModelUnavailable: it can't be loaded.
        """
        started = time.monotonic()
        model = await _in_own_thread(self._load)
        self._transcriber = WhisperTranscriber(model, decoder=self._decoder, gate=self._gate)
        self.model = ModelState(
            name=model.name,
            loaded=True,
            device=model.device.kind,
            compute_type=model.device.compute_type,
            is_multilingual=model.is_multilingual,
        )
        logger.info(
            "🚀 Model %s ready on %s (%s) after %.1fs",
            model.name,
            model.device.kind,
            model.device.compute_type,
            time.monotonic() - started,
        )

    def require_ready(self) -> None:
        """Raises ModelLoading until the model is loaded."""
        self._ready()

    async def transcribe(self, source: Path, options: TranscriptionOptions, *, listener: Listener) -> Transcript:
        return await self._ready().transcribe(source, options, listener=listener)

    def close(self) -> None:
        """Takes no more work; a window on the model is not waited for."""
        self._gate.close()

    def _ready(self) -> WhisperTranscriber:
        if self._transcriber is None:
            raise ModelLoading(
                "The model is still being loaded: try again in a while, or wait for /health/ready to answer 200.",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )
        return self._transcriber


async def _in_own_thread(load: Callable[[], WhisperModel]) -> WhisperModel:
    """Loads in a thread of low priority, which the model's own threads inherit."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=yield_to_requests)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, load)
    finally:
        executor.shutdown(wait=False)
