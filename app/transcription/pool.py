"""A Transcriber over several models, each loaded on its first use, as many at once as there is room for.

A model that is in use stays. Requests come onto their models in the order of arrival; one whose model is not loaded
waits, with all that came after it for want of room, until a model is idle, which then gives way. Those that wait for
the same model when it has been loaded come in together.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from app.domain.errors import ModelLoading, ModelUnavailable
from app.domain.events import discard_event
from app.transcription.admission import FrontEnd
from app.transcription.batcher import engine_failed
from app.transcription.device import yield_to_requests
from app.transcription.engine import WhisperTranscriber
from app.transcription.loading import auto_batch_size
from app.transcription.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from app.domain.errors import ServiceError
    from app.domain.events import EventSink
    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.decoding import Decoder
    from app.transcription.models import ModelRegistry
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: When a client may hope for a loaded model, in seconds.
_RETRY_LOADING_SECONDS = 10


@dataclass(slots=True, eq=False)
class _Place:
    """One model: its engine while it is loaded, and how many requests use it.

    ``last_used`` is larger the later a request came or left.
    """

    name: str
    engine: WhisperTranscriber | None = None
    loading: asyncio.Task[None] | None = None
    users: int = 0
    last_used: int = 0

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.users

    @property
    def takes_room(self) -> bool:
        return self.engine is not None or self.loading is not None


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its model."""

    place: _Place
    came_on: asyncio.Future[WhisperTranscriber] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ModelPool:
    """Refuses work until the first model has been loaded, then hands each request to its model.

    ``load_model`` blocks and gives the replicas of the model of that name, or raises ModelUnavailable.
    ``on_death`` is told when a model's engine has failed for good.
    """

    def __init__(
        self,
        load_model: Callable[[str], Sequence[WhisperModel]],
        *,
        model_registry: ModelRegistry,
        decoder: Decoder,
        slots: int,
        batch_size: int | None,
        max_loaded: int = 1,
        on_death: Callable[[BaseException], None],
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self.model_registry = model_registry
        self.failing = False
        self.ready = False
        self._load_model = load_model
        self._slots = Slots(slots)
        self._front_end = FrontEnd(decoder, slots=slots)
        self._batch_size = batch_size
        self._max_loaded = max_loaded
        self._on_death = on_death
        self._places: dict[str, _Place] = {}
        self._line: list[_Waiting] = []
        self._uses = 0

    @property
    def active(self) -> int:
        return self._slots.held

    async def load(self) -> None:
        """Loads the default model.

        Raises:
            ModelUnavailable: it can't be loaded.
        """
        async with self._on_model(self.model_registry.default.name):
            self.ready = True

    def require_ready(self) -> None:
        """Raises ModelLoading until the first model is loaded."""
        if not self.ready:
            raise ModelLoading(
                "The model is still being loaded: try again in a while, or wait for /health/ready to answer 200.",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )

    async def transcribe(
        self, source: Path, options: TranscriptionOptions, *, listener: Listener, synchronous: bool = False
    ) -> Transcript:
        """See :class:`app.transcription.transcriber.Transcriber`; waits for the model first, if need be."""
        self.require_ready()
        name = self.model_registry.find(options.model).name
        async with self._on_model(name) as engine:
            # It may be known only now what a model is trained for.
            self.model_registry.find(name).require(task=options.task, language=options.language)
            return await engine.transcribe(source, options, listener=listener, synchronous=synchronous)

    async def close(self) -> None:
        """Takes no more work; a batch on a model is not waited for."""
        tasks = [place.loading for place in self._places.values() if place.loading is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for place in self._places.values():
            if place.engine is not None:
                await place.engine.close()
        self._front_end.close()

    @asynccontextmanager
    async def _on_model(self, name: str) -> AsyncIterator[WhisperTranscriber]:
        place = self._places.setdefault(name, _Place(name))
        waiting = _Waiting(place)
        self._line.append(waiting)
        self._admit()
        try:
            yield await asyncio.shield(waiting.came_on)
        finally:
            if waiting in self._line:
                self._line.remove(waiting)
            elif not waiting.came_on.exception():
                place.users -= 1
                self._touch(place)
            self._admit()

    def _admit(self) -> None:
        """Lets in who may come in. Whoever waits for room keeps those behind it from using what it waits for."""
        for waiting in list(self._line):
            place = waiting.place
            if place.engine is not None:
                self._let_in(waiting, place.engine)
            elif place.loading is None and not self._start_loading(place):
                return

    def _let_in(self, waiting: _Waiting, engine: WhisperTranscriber) -> None:
        self._line.remove(waiting)
        waiting.place.users += 1
        self._touch(waiting.place)
        waiting.came_on.set_result(engine)

    def _touch(self, place: _Place) -> None:
        self._uses += 1
        place.last_used = self._uses

    def _start_loading(self, place: _Place) -> bool:
        """Begins to load a model, where the least recently used one gives way if it must; whether there is room."""
        gives_way: WhisperTranscriber | None = None
        if sum(one.takes_room for one in self._places.values()) >= self._max_loaded:
            idle = [one for one in self._places.values() if one.is_idle]
            if not idle:
                return False
            victim = min(idle, key=lambda one: one.last_used)
            gives_way, victim.engine = victim.engine, None
            self.model_registry.update(victim.name, loaded=False)
            logger.info("Model %s gives way to %s", victim.name, place.name)
        place.loading = asyncio.create_task(self._load(place, gives_way), name=f"loading {place.name}")
        place.loading.add_done_callback(lambda task: self._loading_ended(place, task))
        return True

    async def _load(self, place: _Place, gives_way: WhisperTranscriber | None) -> None:
        try:
            if gives_way is not None:
                await gives_way.unload()
                del gives_way
                await asyncio.to_thread(_give_back_memory)
            place.engine = await self._loaded(place)
        except ModelUnavailable as exc:
            self._refuse(place, exc)

    def _loading_ended(self, place: _Place, task: asyncio.Task[None]) -> None:
        place.loading = None
        if task.cancelled():
            return  # the service ends
        if (error := task.exception()) is not None:  # a bug of ours
            self._refuse(place, engine_failed(error))
            self._died(error)
        for waiting in [one for one in self._line if one.place is place]:
            if place.engine is not None:
                self._let_in(waiting, place.engine)
        self._admit()

    async def _loaded(self, place: _Place) -> WhisperTranscriber:
        started = time.monotonic()
        replicas, batch_size = await _in_own_thread(lambda: self._load_and_measure(place.name))
        engine = WhisperTranscriber(
            replicas,
            front_end=self._front_end,
            slots=self._slots,
            batch_size=batch_size,
            on_death=self._died,
            emit=self._emit,
        )
        self._write_down(place, replicas[0])
        logger.info(
            "🚀 Model %s ready on %s (%s), %d replica(s), batches of up to %d, after %.1fs",
            place.name,
            replicas[0].device.kind,
            replicas[0].device.compute_type,
            len(replicas),
            batch_size,
            time.monotonic() - started,
        )
        return engine

    def _write_down(self, place: _Place, model: WhisperModel) -> None:
        self.model_registry.update(
            place.name,
            name=model.name,
            loaded=True,
            device=model.device.kind,
            compute_type=model.device.compute_type,
            is_multilingual=model.is_multilingual,
            languages=model.languages,
        )
        if model.name != place.name:  # the settings said auto
            del self._places[place.name]
            place.name = model.name
            self._places[model.name] = place

    def _refuse(self, place: _Place, error: ServiceError) -> None:
        """Fails those that wait for a model that can't be loaded; who asks next has it tried again."""
        for waiting in [one for one in self._line if one.place is place]:
            self._line.remove(waiting)
            waiting.came_on.set_exception(error)

    def _load_and_measure(self, name: str) -> tuple[Sequence[WhisperModel], int]:
        replicas = self._load_model(name)
        try:
            return replicas, self._batch_size or auto_batch_size(replicas[0])
        except RuntimeError as exc:  # what CTranslate2 raises
            raise ModelUnavailable(
                f"The model {name} leaves no memory to work with ({exc}): set WHISPER_MAX_LOADED_MODELS or "
                "WHISPER_BATCH_SIZE lower, or WHISPER_COMPUTE_TYPE=int8_float16."
            ) from exc

    def _died(self, cause: BaseException) -> None:
        self.failing = True
        self._on_death(cause)


def _give_back_memory() -> None:
    """Frees what was unloaded. An engine and its loops know each other, so that it takes the collector.

    glibc keeps freed memory for later: two models of base dimensions that took turns came to 492 MB, and to 355 MB when
    it was told to give it back.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def _in_own_thread(load: Callable[[], T]) -> T:
    """Loads in a thread of low priority, which the model's own threads inherit."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=yield_to_requests)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, load)
    finally:
        executor.shutdown(wait=False)
