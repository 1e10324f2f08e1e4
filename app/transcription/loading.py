"""A Transcriber whose model is loaded while the server answers already."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from app.domain.errors import ModelLoading
from app.transcription.batch_size import auto_batch_size
from app.transcription.device import yield_to_requests
from app.transcription.engine import WhisperTranscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.decoding import Decoder
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Names of models, and of directories called after them, that write down other languages as they are.
_UNTRANSLATING = re.compile(r"turbo|distil|\.en\b")
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

    @property
    def can_translate(self) -> bool:
        """Whether it was trained to write English for other languages: English ones, turbo and distil were not."""
        return self.is_multilingual and not _UNTRANSLATING.search(self.name.lower())


class LoadingTranscriber:
    """Refuses work until :meth:`load` has succeeded, then hands it on."""

    def __init__(
        self,
        load: Callable[[], Sequence[WhisperModel]],
        *,
        name: str,
        compute_type: str,
        decoder: Decoder,
        permits: int,
        batch_size: int | None,
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._load = load
        self._decoder = decoder
        self._permits = permits
        self._batch_size = batch_size
        self._on_death = on_death
        self.failing = False
        self._transcriber: WhisperTranscriber | None = None
        self.model = ModelState(name=name, loaded=False, device="cpu", compute_type=compute_type, is_multilingual=True)

    @property
    def active(self) -> int:
        return 0 if self._transcriber is None else self._transcriber.active

    async def load(self) -> None:
        """Loads the model in a thread.

        Raises:
            ModelUnavailable: it can't be loaded.
        """
        started = time.monotonic()
        replicas, batch_size = await _in_own_thread(self._load_and_measure)
        model = replicas[0]
        self._transcriber = WhisperTranscriber(
            replicas, decoder=self._decoder, permits=self._permits, batch_size=batch_size, on_death=self._died
        )
        self.model = ModelState(
            name=model.name,
            loaded=True,
            device=model.device.kind,
            compute_type=model.device.compute_type,
            is_multilingual=model.is_multilingual,
        )
        logger.info(
            "🚀 Model %s ready on %s (%s), %d replica(s), batches of up to %d, after %.1fs",
            model.name,
            model.device.kind,
            model.device.compute_type,
            len(replicas),
            batch_size,
            time.monotonic() - started,
        )

    def require_ready(self) -> None:
        """Raises ModelLoading until the model is loaded."""
        self._ready()

    async def transcribe(
        self, source: Path, options: TranscriptionOptions, *, listener: Listener, awaited: bool = False
    ) -> Transcript:
        return await self._ready().transcribe(source, options, listener=listener, awaited=awaited)

    async def close(self) -> None:
        """Takes no more work; a batch on the model is not waited for."""
        if self._transcriber is not None:
            await self._transcriber.close()

    def _load_and_measure(self) -> tuple[Sequence[WhisperModel], int]:
        replicas = self._load()
        return replicas, self._batch_size or auto_batch_size(replicas[0])

    def _died(self, cause: BaseException) -> None:
        self.failing = True
        self._on_death(cause)

    def _ready(self) -> WhisperTranscriber:
        if self._transcriber is None:
            raise ModelLoading(
                "The model is still being loaded: try again in a while, or wait for /health/ready to answer 200.",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )
        return self._transcriber


async def _in_own_thread(load: Callable[[], T]) -> T:
    """Loads in a thread of low priority, which the model's own threads inherit."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=yield_to_requests)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, load)
    finally:
        executor.shutdown(wait=False)
