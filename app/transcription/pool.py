"""A Transcriber over several models, each loaded on its first use, with limits on how many are loaded and for how long.

A model that is in use is never unloaded. Transcriptions get their models in the order of arrival. One whose model can
only be loaded after another has been evicted waits until a model is idle, and everything behind it in the queue waits
too. Once a model is loaded, all transcriptions that wait for it start together. One that arrives while its model is
being unloaded waits for the end of that, and loads it again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from app.domain.concurrency import in_executor
from app.domain.errors import ModelLoading, ModelUnavailable
from app.domain.events import ModelLoaded, ModelUnloaded, UnloadReason, discard_event
from app.transcription.admission import FrontEnd
from app.transcription.batch_size import auto_batch_size
from app.transcription.batcher import engine_failed
from app.transcription.device import lower_thread_priority
from app.transcription.engine import WhisperTranscriber
from app.transcription.heap import return_free_memory
from app.transcription.live import LiveDetector
from app.transcription.slots import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

    from app.domain.errors import ServiceError
    from app.domain.events import DeviceState, EventSink
    from app.domain.transcript import Transcript, TranscriptionOptions
    from app.transcription.decoding import Decoder
    from app.transcription.diarizer import Diarizer
    from app.transcription.live import LiveTranscriber
    from app.transcription.models import ModelRegistry
    from app.transcription.transcriber import Listener
    from app.transcription.whisper import WhisperModel

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

_RETRY_LOADING_SECONDS = 10


@dataclass(slots=True, eq=False)
class _PooledModel:
    """A model of the registry, with its engine while it is loaded.

    ``transition`` is the task that loads or unloads it. ``users`` counts the transcriptions that use the engine.
    ``last_used`` grows with each start and end of one. ``idle_since`` is the loop's time of the last end.
    """

    name: str
    engine: WhisperTranscriber | None = None
    transition: asyncio.Task[None] | None = None
    users: int = 0
    last_used: int = 0
    idle_since: float = 0.0

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and not self.users

    @property
    def is_in_memory(self) -> bool:
        return self.engine is not None or self.transition is not None


@dataclass(slots=True, eq=False)
class _Queued:
    """A transcription that waits for the engine of its model."""

    model: _PooledModel
    engine: asyncio.Future[WhisperTranscriber] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class ModelPool:
    """Refuses transcriptions until the default model has been loaded, then gives each one its model.

    ``load_model(name)`` blocks and returns the replicas of a model, or raises ModelUnavailable. A model that was idle
    for ``idle_unload_seconds`` is unloaded; 0 means never. Without a ``diarizer`` speakers are told apart by channels
    only. ``on_death`` is called when an engine has failed and can't recover.
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
        idle_unload_seconds: float = 0.0,
        diarizer: Diarizer | None = None,
        on_death: Callable[[BaseException], None],
        emit: EventSink = discard_event,
    ) -> None:
        self.model_registry = model_registry
        self.failing = False
        self.ready = False
        self._load_model = load_model
        self._slots = Slots(slots)
        self._front_end = FrontEnd(decoder, slots=slots, diarizer=diarizer)
        self._batch_size = batch_size
        self._max_loaded = max_loaded
        self._idle_unload_seconds = idle_unload_seconds
        self._idle_timer: asyncio.TimerHandle | None = None
        self._on_death = on_death
        self._emit = emit
        self._models: dict[str, _PooledModel] = {}
        self._queue: list[_Queued] = []
        self._uses = count(1)

    @property
    def active(self) -> int:
        """The number of slots in use."""
        return self._slots.held

    @property
    def device_shares(self) -> list[dict[DeviceState, float]]:
        """The shares of each device's states in the last minute, for the default model; empty if it is not loaded."""
        model = self._models.get(self.model_registry.default.name)
        return model.engine.device_shares if model is not None and model.engine is not None else []

    async def load(self) -> None:
        """Load the default model, after making sure that files can be decoded.

        Raises:
            DecoderUnavailable: files can't be decoded.
            ModelUnavailable: the model can't be loaded.
        """
        await self._front_end.decoder.check()
        async with self._engine(self.model_registry.default.name):
            self.ready = True

    def require_ready(self) -> None:
        """Raise ModelLoading until the default model has been loaded."""
        if not self.ready:
            raise ModelLoading(
                "The model is still loading: try again later, or wait until /health/ready returns 200.",
                retry_after_seconds=_RETRY_LOADING_SECONDS,
            )

    async def transcribe(
        self,
        source: Path,
        options: TranscriptionOptions,
        *,
        listener: Listener,
        synchronous: bool = False,
        references: Sequence[Path] = (),
    ) -> Transcript:
        """Transcribe with the requested model, after loading it if necessary.

        See :class:`app.transcription.transcriber.Transcriber`.
        """
        self.require_ready()
        name = self.model_registry.find(options.model).name
        async with self._engine(name) as engine:
            # The abilities of a model may be known only now that it is loaded.
            self.model_registry.find(name).require(
                task=options.task, language=options.language, languages=options.languages
            )
            return await engine.transcribe(
                source, options, listener=listener, synchronous=synchronous, references=references
            )

    @asynccontextmanager
    async def live(self, options: TranscriptionOptions) -> AsyncIterator[LiveTranscriber]:
        """Wait for the requested model, loading it if necessary, and keep it for live audio while the context lasts.

        Raises:
            ModelLoading: The default model is still being loaded.
            InvalidRequest: The model is not served, or can't do this.
            ModelUnavailable: The model can't be loaded.
        """
        self.require_ready()
        name = self.model_registry.choose(options.model)[0].name
        async with self._engine(name) as engine:
            self.model_registry.find(name).require(
                task=options.task, language=options.language, languages=options.languages
            )
            yield engine.live

    def live_detector(self) -> LiveDetector:
        """Return voice activity detection for one stream of live audio."""
        return LiveDetector(self._front_end)

    async def close(self) -> None:
        """Stop all engines without waiting for the batches that they have on their models."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        transitions = [model.transition for model in self._models.values() if model.transition is not None]
        for task in transitions:
            task.cancel()
        await asyncio.gather(*transitions, return_exceptions=True)
        for model in self._models.values():
            engine, model.engine = model.engine, None
            if engine is not None:
                await engine.close()
        self._front_end.close()

    @asynccontextmanager
    async def _engine(self, name: str) -> AsyncIterator[WhisperTranscriber]:
        """Wait for the engine of a model and keep the model from being unloaded while the context lasts."""
        model = self._models.setdefault(name, _PooledModel(name))
        queued = _Queued(model)
        self._queue.append(queued)
        self._dispatch()
        try:
            yield await asyncio.shield(queued.engine)
        finally:
            if queued in self._queue:
                self._queue.remove(queued)
            elif not queued.engine.exception():
                model.users -= 1
                model.last_used = next(self._uses)
                model.idle_since = asyncio.get_running_loop().time()
            self._dispatch()
            self._set_idle_timer()

    def _dispatch(self) -> None:
        """Start what can start, in the order of arrival, up to the first that waits for another model's eviction."""
        for queued in list(self._queue):
            model = queued.model
            if model.engine is not None:
                self._start(queued, model.engine)
            elif model.transition is None and not self._start_loading(model):
                return

    def _start(self, queued: _Queued, engine: WhisperTranscriber) -> None:
        self._queue.remove(queued)
        queued.model.users += 1
        queued.model.last_used = next(self._uses)
        queued.engine.set_result(engine)

    def _start_loading(self, model: _PooledModel) -> bool:
        """Start to load a model, in place of the least recently used one if the limit is reached.

        Return False if the limit is reached and all loaded models are in use.
        """
        evicted: WhisperTranscriber | None = None
        if sum(other.is_in_memory for other in self._models.values()) >= self._max_loaded:
            victim = self._least_recently_used()
            if victim is None:
                return False
            logger.info("Evicting model %s to load %s", victim.name, model.name)
            evicted = self._take_engine(victim, UnloadReason.EVICTED)
        self._start_transition(model, self._load(model, evicted), name=f"loading {model.name}")
        return True

    def _start_transition(self, model: _PooledModel, work: Coroutine[None, None, None], *, name: str) -> None:
        # Not in the context of the request, which would appear in log lines for as long as the model is loaded.
        model.transition = asyncio.create_task(work, name=name, context=Context())
        model.transition.add_done_callback(partial(self._transition_ended, model), context=Context())

    def _least_recently_used(self) -> _PooledModel | None:
        """Return the idle model that was used longest ago, or None if all loaded models are in use."""
        idle = [model for model in self._models.values() if model.is_idle]
        return min(idle, key=attrgetter("last_used"), default=None)

    def _set_idle_timer(self) -> None:
        """Set the timer for the first model that could have been idle for too long, unless it is set.

        A use later than that only makes the timer find nothing to do, and set itself again.
        """
        if not self._idle_unload_seconds or self._idle_timer is not None:
            return
        idle_since = [model.idle_since for model in self._models.values() if model.is_idle]
        if idle_since:
            self._idle_timer = asyncio.get_running_loop().call_at(
                min(idle_since) + self._idle_unload_seconds, self._unload_idle, context=Context()
            )

    def _unload_idle(self) -> None:
        self._idle_timer = None
        idle_since = asyncio.get_running_loop().time() - self._idle_unload_seconds
        for model in self._models.values():
            if model.is_idle and model.idle_since <= idle_since:
                logger.info("Unloading model %s after %gs without a request", model.name, self._idle_unload_seconds)
                unloading = _unload(self._take_engine(model, UnloadReason.IDLE))
                self._start_transition(model, unloading, name=f"unloading {model.name}")
        self._set_idle_timer()

    def _take_engine(self, model: _PooledModel, reason: UnloadReason) -> WhisperTranscriber:
        """Return the engine of a loaded model, which is not loaded from now on."""
        engine, model.engine = model.engine, None
        assert engine is not None  # noqa: S101  # the caller has checked that the model is idle
        self._emit(ModelUnloaded(reason))
        self.model_registry.update(model.name, replace(self.model_registry.find(model.name), loaded=False))
        return engine

    async def _load(self, model: _PooledModel, evicted: WhisperTranscriber | None) -> None:
        try:
            if evicted is not None:
                unloading = _unload(evicted)
                del evicted
                await unloading
            model.engine = await self._load_engine(model)
            model.idle_since = asyncio.get_running_loop().time()
        except ModelUnavailable as exc:
            self._fail_queued(model, exc)

    def _transition_ended(self, model: _PooledModel, task: asyncio.Task[None]) -> None:
        model.transition = None
        if task.cancelled():
            return  # the pool is being closed
        if (error := task.exception()) is not None:  # a bug of ours
            self._fail_queued(model, engine_failed(error))
            self._died(error)
        for queued in self._queued_for(model):
            if model.engine is not None:
                self._start(queued, model.engine)
        self._dispatch()
        self._set_idle_timer()

    async def _load_engine(self, model: _PooledModel) -> WhisperTranscriber:
        started = time.monotonic()
        replicas, batch_size = await _run_in_model_thread(self._load_replicas, model.name)
        engine = WhisperTranscriber(
            replicas,
            front_end=self._front_end,
            slots=self._slots,
            batch_size=batch_size,
            on_death=self._died,
            emit=self._emit,
        )
        self._register(model, replicas[0])
        self._emit(ModelLoaded(time.monotonic() - started))
        logger.info(
            "🚀 Model %s ready on %s (%s), %d replica(s), batches of up to %d, after %.1fs",
            model.name,
            replicas[0].device.kind,
            replicas[0].device.compute_type,
            len(replicas),
            batch_size,
            time.monotonic() - started,
        )
        return engine

    def _load_replicas(self, name: str) -> tuple[Sequence[WhisperModel], int]:
        """Return the replicas of a model and the size of their batches. Blocks."""
        replicas = self._load_model(name)
        try:
            return replicas, self._batch_size or auto_batch_size(replicas[0])
        except RuntimeError as exc:  # raised by CTranslate2
            raise ModelUnavailable(
                f"The model {name} leaves no memory for transcription ({exc}): lower WHISPER_MAX_LOADED_MODELS or "
                "WHISPER_BATCH_SIZE, or set WHISPER_COMPUTE_TYPE=int8_float16."
            ) from exc

    def _register(self, model: _PooledModel, replica: WhisperModel) -> None:
        """Store what is known of a model now that it is loaded."""
        state = replace(
            self.model_registry.find(model.name),
            name=replica.name,
            loaded=True,
            is_known=True,
            device=replica.device.kind,
            compute_type=replica.device.compute_type,
            is_multilingual=replica.is_multilingual,
            languages=replica.languages,
        )
        self.model_registry.update(model.name, state)
        if replica.name != model.name:  # the settings said "auto"
            del self._models[model.name]
            model.name = replica.name
            self._models[model.name] = model

    def _fail_queued(self, model: _PooledModel, error: ServiceError) -> None:
        """Fail the transcriptions that wait for a model. The next request for it tries to load it again."""
        for queued in self._queued_for(model):
            self._queue.remove(queued)
            queued.engine.set_exception(error)

    def _queued_for(self, model: _PooledModel) -> list[_Queued]:
        return [queued for queued in self._queue if queued.model is model]

    def _died(self, cause: BaseException) -> None:
        self.failing = True
        self._on_death(cause)


async def _unload(engine: WhisperTranscriber) -> None:
    """Unload an engine and free its memory, if nobody keeps a reference to it."""
    await engine.unload()
    del engine
    await asyncio.to_thread(_release_memory)


def _release_memory() -> None:
    """Return the memory of an unloaded model to the operating system.

    An engine is part of reference cycles, which only the garbage collector frees. glibc keeps freed memory for later:
    the process that used two models of base dimensions in turn grew to 492 MB without the trim and to 355 MB with it.
    """
    gc.collect()
    return_free_memory()


async def _run_in_model_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function in a thread of low priority, which the threads that the model starts inherit."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="model", initializer=lower_thread_priority)
    try:
        return await in_executor(executor, function, *args, **kwargs)
    finally:
        executor.shutdown(wait=False)
