"""Several models in one process: loaded on first use, and evicted when too many are loaded."""

from __future__ import annotations

import asyncio
import copy
import gc
import random
import shutil
import threading
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import app.transcription.pool as pool_module
from app.domain.errors import (
    EngineFailed,
    InvalidRequest,
    ModelLoading,
    ModelUnavailable,
    TranscriptionFailed,
    UndecodableAudio,
    UnknownModel,
)
from app.domain.events import BatchDecoded, ModelLoaded, ModelUnloaded, UnloadReason
from app.domain.log_context import CurrentJob, current_job, logging_for
from app.domain.transcript import Task, Transcript, TranscriptionOptions
from app.transcription.models import ModelRegistry
from app.transcription.pool import ModelPool
from app.transcription.transcriber import Listener
from app.transcription.whisper import WhisperModel
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from app.domain.events import Event
    from app.transcription.decoding import Decoder
    from app.transcription.window import Window

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="loads a model for each test")]

GREETING = "hello this is a test"


class Gate:
    """Makes a thread wait while the test keeps it closed."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self._open = threading.Event()
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_by(self) -> None:
        self.arrived.set()
        assert self._open.wait(120)


class EnglishModel(WhisperModel):
    """A model that turns out to be English-only."""

    @property
    def is_multilingual(self) -> bool:
        return False


class FakeHub:
    """Loads the demo model under any of several names. ``loading`` and ``decoding`` have a gate for each name.

    ``events`` lists what happened in order. ``errors`` are raised instead of loading. ``on_load`` is called before a
    model is loaded. ``real_names`` maps names to those that the loaded models have.
    """

    def __init__(self, model: WhisperModel, names: Sequence[str]) -> None:
        self._model = model
        self.events: list[str] = []
        self.loading = {name: Gate() for name in names}
        self.decoding = {name: Gate() for name in names}
        self.errors: dict[str, Exception] = {}
        self.decode_errors: dict[str, type[Exception]] = {}
        self.real_names: dict[str, str] = {}
        self.english: set[str] = set()
        self.on_load: Callable[[str], None] = lambda _: None

    @property
    def loads(self) -> list[str]:
        return [event.removeprefix("load ") for event in self.events if event.startswith("load ")]

    def load(self, name: str) -> tuple[WhisperModel]:
        self.events.append(f"load {name}")
        self.on_load(name)
        self.loading[name].pass_by()
        if error := self.errors.get(name):
            raise error
        model = copy.copy(self._model)
        model.name = self.real_names.get(name, name)
        if name in self.english:
            model.__class__ = EnglishModel
        model.decode = self._gated(name, model.decode)  # type: ignore[method-assign, assignment]  # replaced on this instance only
        return (model,)

    def _gated(self, name: str, decode: Callable[[Sequence[Window]], Any]) -> Callable[[Sequence[Window]], Any]:
        def gated(windows: Sequence[Window]) -> Any:
            self.decoding[name].pass_by()
            if error := self.decode_errors.get(name):
                raise error("The model failed.")
            return decode(windows)

        return gated

    def open_all(self) -> None:
        for gate in (*self.loading.values(), *self.decoding.values()):
            gate.open()


class Rig:
    """A pool that loads from a fake hub, and transcriptions in it."""

    def __init__(self, pool: ModelPool, hub: FakeHub, audio: Path, folder: Path, deaths: list[BaseException]) -> None:
        self.pool = pool
        self.hub = hub
        self.audio = audio
        self.deaths = deaths
        self._folder = folder
        self._number = 0
        self._closed = False

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self.pool.close()

    async def transcribe(self, name: str | None = None, **options: Any) -> str:
        """Transcribe and return the text. The event ``name done`` follows."""
        self._number += 1
        source = self._folder / str(self._number)
        await asyncio.to_thread(shutil.copy, self.audio, source)
        transcript = await self.pool.transcribe(
            source, TranscriptionOptions(model=name, **options), listener=Listener()
        )
        self.hub.events.append(f"{name} done")
        return transcript.text

    async def begin(self, name: str, **options: Any) -> asyncio.Task[str]:
        """Start a transcription and return once it is queued or has its model."""
        before = self._count()
        task = asyncio.create_task(self.transcribe(name, **options), name=name)
        await eventually(lambda: self._count() > before or task.done())
        return task

    async def begin_and_hold(self, name: str) -> asyncio.Task[str]:
        """Start a transcription that uses its model until the test opens the gate."""
        gate = self.hub.decoding[name]
        gate.arrived.clear()
        gate.close()
        task = await self.begin(name)
        await eventually(gate.arrived.is_set)
        return task

    def users(self, name: str) -> int:
        model = self.pool._models.get(name)
        return 0 if model is None else model.users

    @property
    def waiting(self) -> list[str]:
        """The models that transcriptions wait for, in the order of the queue."""
        return [queued.model.name for queued in self.pool._queue]

    def _count(self) -> int:
        return len(self.pool._queue) + sum(model.users for model in self.pool._models.values())


@asynccontextmanager
async def open_pool(
    hub: FakeHub, decoder: Decoder, audio: Path, folder: Path, *, load: bool = True, **settings: Any
) -> AsyncIterator[Rig]:
    deaths: list[BaseException] = []
    default, *others = hub.loading
    pool = ModelPool(
        hub.load,
        model_registry=ModelRegistry(default, others),
        decoder=decoder,
        on_death=deaths.append,
        **{"slots": 2, "batch_size": 8, **settings},
    )
    rig = Rig(pool, hub, audio, folder, deaths)
    try:
        if load:
            await pool.load()
        yield rig
    finally:
        hub.open_all()
        await rig.close()


class PoolFactory:
    """Creates pools of the models ``a`` (the default), ``b`` and ``c``, by default with one loaded at a time."""

    def __init__(self, model: WhisperModel, decoder: Decoder, audio: Path, folder: Path) -> None:
        self._arguments = (decoder, audio, folder)
        self.hub = FakeHub(model, "abc")

    def __call__(self, **settings: Any) -> Any:
        return open_pool(self.hub, *self._arguments, **settings)


@pytest.fixture
def make_pool(model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path) -> PoolFactory:
    return PoolFactory(model, decoder, samples / "hello.wav", tmp_path)


@pytest.mark.smoke
async def test_transcriptions_are_refused_until_the_default_model_is_loaded(make_pool: PoolFactory) -> None:
    async with make_pool(load=False) as running:
        assert not running.pool.ready
        with pytest.raises(ModelLoading, match="still loading"):
            await running.transcribe()
        running.hub.loading["a"].close()
        loading = asyncio.create_task(running.pool.load())
        await eventually(running.hub.loading["a"].arrived.is_set)
        with pytest.raises(ModelLoading):
            await running.transcribe("b")
        running.hub.loading["a"].open()
        await loading
        assert running.pool.ready
        assert GREETING in await running.transcribe()


async def test_model_is_loaded_on_first_use(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=3) as running:
        assert running.hub.loads == ["a"]
        assert GREETING in await running.transcribe()
        assert GREETING in await running.transcribe("b")
        assert running.hub.loads == ["a", "b"]
        assert [state.loaded for state in running.pool.model_registry.states] == [True, True, False]


async def test_models_within_the_limit_stay_loaded(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        for name in "abab":
            await running.transcribe(name)
        assert running.hub.loads == ["a", "b"]


async def test_single_loaded_model_is_evicted_and_loaded_again(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        for name in ("a", "b", "a"):
            await running.transcribe(name)
        assert running.hub.loads == ["a", "b", "a"]
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, False]
        assert running.pool.ready


@pytest.mark.smoke
async def test_least_recently_used_model_is_evicted(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        for name in "abac":
            await running.transcribe(name)
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, True]
        await running.transcribe("a")
        assert running.hub.loads == ["a", "b", "c"]


async def test_end_of_a_transcription_counts_as_use(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        long = await running.begin_and_hold("a")
        await running.transcribe("b")
        running.hub.decoding["a"].open()
        await long
        await running.transcribe("c")
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, True]


async def test_model_in_use_is_not_evicted(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        other = await running.begin("b")
        assert running.waiting == ["b"]
        assert running.hub.loads == ["a"]
        running.hub.decoding["a"].open()
        assert GREETING in await first
        assert GREETING in await other
        assert running.hub.events == ["load a", "a done", "load b", "b done"]


async def test_model_is_evicted_after_its_last_transcription(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first, second = await running.begin_and_hold("a"), await running.begin("a")
        other = await running.begin("b")
        first.cancel()
        await asyncio.wait([first])
        assert running.users("a") == 1
        assert running.hub.loads == ["a"]
        running.hub.decoding["a"].open()
        await asyncio.gather(second, other)
        assert running.hub.events == ["load a", "a done", "load b", "b done"]


async def test_next_model_is_loaded_after_the_cancelled_batch_has_ended(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        other = await running.begin("b")
        first.cancel()
        await asyncio.wait([first])
        await eventually(lambda: not running.pool.model_registry.find("a").loaded)
        for _ in range(50):  # let anything happen that could
            await asyncio.sleep(0)
        assert running.hub.loads == ["a"]  # the evicted model is still computing
        running.hub.decoding["a"].open()
        await other
        assert running.hub.loads == ["a", "b"]


async def test_idle_model_is_evicted_while_another_is_in_use(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        await running.transcribe("b")
        first = await running.begin_and_hold("a")
        await running.transcribe("c")
        assert running.hub.loads == ["a", "b", "c"]
        assert not first.done()
        running.hub.decoding["a"].open()
        await first


async def test_transcription_does_not_overtake_one_that_waits_for_eviction(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        waits_for_eviction = await running.begin("b")
        later = await running.begin("a")
        assert running.waiting == ["b", "a"]
        running.hub.decoding["a"].open()
        await asyncio.gather(first, waits_for_eviction, later)
        assert running.hub.events == ["load a", "a done", "load b", "b done", "load a", "a done"]


async def test_transcriptions_that_wait_for_one_model_start_together(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        waiting = [await running.begin(name) for name in ("b", "a", "b")]
        running.hub.decoding["b"].close()
        running.hub.decoding["a"].open()
        await first
        await eventually(lambda: running.users("b") == 2)
        assert running.waiting == ["a"]
        running.hub.decoding["b"].open()
        await asyncio.gather(*waiting)
        assert running.hub.loads == ["a", "b", "a"]


async def test_concurrent_requests_load_a_model_once(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.loading["b"].close()
        waiting = [await running.begin("b") for _ in range(3)]
        await eventually(running.hub.loading["b"].arrived.is_set)
        assert running.hub.loads == ["a", "b"]
        running.hub.loading["b"].open()
        assert all(GREETING in text for text in await asyncio.gather(*waiting))
        assert running.hub.loads == ["a", "b"]


async def test_loaded_model_is_used_while_another_loads(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        running.hub.loading["b"].close()
        waiting = await running.begin("b")
        assert GREETING in await running.transcribe("a")
        running.hub.loading["b"].open()
        await waiting


async def test_loading_model_counts_towards_the_limit(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.loading["b"].close()
        waiting = [await running.begin(name) for name in ("b", "c")]
        await eventually(running.hub.loading["b"].arrived.is_set)
        assert running.hub.loads == ["a", "b"]
        running.hub.loading["b"].open()
        await asyncio.gather(*waiting)
        assert running.hub.events[1:] == ["load b", "b done", "load c", "c done"]


async def test_failure_to_load_fails_only_requests_for_that_model(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.errors["b"] = ModelUnavailable("The model b can't be loaded: the hub is away.")
        running.hub.loading["b"].close()
        failing = [await running.begin("b") for _ in range(2)]
        others = [await running.begin(name) for name in "ca"]
        running.hub.loading["b"].open()
        for task in failing:
            with pytest.raises(ModelUnavailable, match="the hub is away"):
                await task
        assert all(GREETING in text for text in await asyncio.gather(*others))
        assert running.hub.loads == ["a", "b", "c", "a"]
        assert running.deaths == []
        assert not running.pool.failing
        assert not running.pool.model_registry.find("b").loaded


async def test_next_request_retries_a_failed_load(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.errors["b"] = ModelUnavailable("The model b can't be loaded: the hub is away.")
        for _ in range(2):
            with pytest.raises(ModelUnavailable):
                await running.transcribe("b")
        del running.hub.errors["b"]
        assert GREETING in await running.transcribe("b")
        assert running.hub.loads == ["a", "b", "b", "b"]


async def test_failure_to_load_the_default_model_is_raised(make_pool: PoolFactory) -> None:
    make_pool.hub.errors["a"] = ModelUnavailable("The model a can't be loaded: there is none.")
    async with make_pool(load=False) as running:
        with pytest.raises(ModelUnavailable, match="there is none"):
            await running.pool.load()
        assert not running.pool.ready
        assert running.deaths == []


async def test_unexpected_error_while_loading_stops_the_service(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.errors["b"] = ZeroDivisionError()
        running.hub.loading["b"].close()
        waiting = [await running.begin("b") for _ in range(2)]
        running.hub.loading["b"].open()
        for task in waiting:
            with pytest.raises(EngineFailed, match=r"failed \(ZeroDivisionError\) and the server is restarting"):
                await task
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        assert running.pool.failing


async def test_death_of_an_engine_stops_the_service(make_pool: PoolFactory) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async with make_pool(max_loaded=2) as running:
        await running.transcribe("b")
        engine = running.pool._models["b"].engine
        assert engine is not None
        engine._batcher.scheduler.next_batch = broken  # simulates a bug
        with pytest.raises(EngineFailed):
            await running.transcribe("b")
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        assert running.pool.failing


async def test_cancelled_transcription_leaves_the_queue(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        waits_for_eviction, behind = await running.begin("b"), await running.begin("a")
        assert running.waiting == ["b", "a"]
        waits_for_eviction.cancel()
        await asyncio.wait([waits_for_eviction])
        assert running.waiting == []
        assert running.users("a") == 2
        running.hub.decoding["a"].open()
        await asyncio.gather(first, behind)
        assert running.hub.loads == ["a"]


async def test_model_still_loads_after_one_request_is_cancelled(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.loading["b"].close()
        waiting = [await running.begin("b") for _ in range(2)]
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        running.hub.loading["b"].open()
        assert GREETING in await waiting[1]
        await eventually(lambda: not running.users("b"))
        assert running.hub.loads == ["a", "b"]


async def test_loaded_model_without_transcriptions_is_evicted(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        running.hub.loading["b"].close()
        cancelled, other = await running.begin("b"), await running.begin("a")
        cancelled.cancel()
        await asyncio.wait([cancelled])
        running.hub.loading["b"].open()
        assert GREETING in await other
        assert running.hub.loads == ["a", "b", "a"]


async def test_transcription_cancelled_as_it_starts_releases_its_model(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        first = await running.begin_and_hold("a")
        waiting = await running.begin("b")
        (queued,) = running.pool._queue
        queued.engine.add_done_callback(lambda _: waiting.cancel())
        running.hub.decoding["a"].open()
        await first
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert running.users("b") == 0
        assert GREETING in await running.transcribe("a")


@pytest.mark.smoke
async def test_unknown_model_is_rejected_without_queueing(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        with pytest.raises(UnknownModel):
            await running.transcribe("d")
        assert running.waiting == []
        assert running.hub.loads == ["a"]


async def test_abilities_of_a_model_are_checked_after_loading(make_pool: PoolFactory) -> None:
    make_pool.hub.english.add("b")
    async with make_pool() as running:
        with pytest.raises(InvalidRequest, match="The model b can't translate"):
            await running.transcribe("b", task=Task.TRANSLATE)
        with pytest.raises(InvalidRequest, match="the model b only knows English"):
            await running.transcribe("b", language="de")
        assert running.users("b") == 0
        assert GREETING in await running.transcribe("b", language="en")
        assert running.hub.loads == ["a", "b"]


async def test_auto_and_its_real_name_share_one_model(make_pool: PoolFactory) -> None:
    make_pool.hub.real_names["a"] = "c"
    async with make_pool(max_loaded=3) as running:
        assert running.pool.model_registry.default.name == "c"
        assert GREETING in await running.transcribe("c")
        assert GREETING in await running.transcribe()
        assert running.hub.loads == ["a"]
        with pytest.raises(UnknownModel):
            await running.transcribe("a")


async def test_evicted_auto_is_loaded_again_by_its_real_name(make_pool: PoolFactory) -> None:
    make_pool.hub.real_names["a"] = "c"
    async with make_pool() as running:
        for name in (None, "b", None):
            assert GREETING in await running.transcribe(name)
        assert running.hub.loads == ["a", "b", "c"]
        assert [state.name for state in running.pool.model_registry.states if state.loaded] == ["c"]


@pytest.mark.parametrize("slots", [1, 2])
async def test_slots_are_counted_over_all_models(make_pool: PoolFactory, slots: int) -> None:
    async with make_pool(max_loaded=2, slots=slots) as running:
        await running.transcribe("b")
        first = await running.begin_and_hold("a")
        assert running.pool.active == 1
        second = await (running.begin_and_hold("b") if slots == 2 else running.begin("b"))
        await eventually(lambda: running.users("b") == 1)
        assert running.pool.active == slots
        running.hub.open_all()
        await asyncio.gather(first, second)
        assert running.pool.active == 0


def loaded_models(running: Rig) -> list[str]:
    return [state.name for state in running.pool.model_registry.states if state.loaded]


@pytest.mark.smoke
async def test_idle_model_is_unloaded_and_the_next_request_loads_it(make_pool: PoolFactory) -> None:
    emitted: list[Event] = []
    async with make_pool(idle_unload_seconds=0.01, emit=emitted.append) as running:
        references = engine_of(running, "a")
        await eventually(lambda: not loaded_models(running))
        await eventually(lambda: running.pool._models["a"].transition is None)
        assert [reference() for reference in references] == [None, None]
        assert (running.pool.ready, running.pool.device_shares) == (True, [])
        assert GREETING in await running.transcribe()
        assert running.hub.loads == ["a", "a"]
        await eventually(lambda: not loaded_models(running))
        unloads = [event.reason for event in emitted if isinstance(event, ModelUnloaded)]
        assert unloads == [UnloadReason.IDLE] * 2
        assert len([event for event in emitted if isinstance(event, ModelLoaded)]) == 2
    assert running.deaths == []


async def test_models_are_unloaded_one_by_one_after_their_last_use(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=3, idle_unload_seconds=0.05) as running:
        used = await running.begin_and_hold("b")
        await running.transcribe("c")
        await eventually(lambda: loaded_models(running) == ["b"])
        assert running.users("b") == 1  # however long it takes
        running.hub.decoding["b"].open()
        assert GREETING in await used
        await eventually(lambda: not loaded_models(running))
        await asyncio.gather(*(running.transcribe(name) for name in "abc"))
        assert sorted(running.hub.loads[-3:]) == ["a", "b", "c"]
        await eventually(lambda: not loaded_models(running))


async def test_without_a_limit_no_model_is_unloaded_and_no_timer_runs(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        await running.transcribe()
        assert running.pool._idle_timer is None
        assert loaded_models(running) == ["a"]


async def test_no_timer_runs_while_no_model_is_idle(make_pool: PoolFactory) -> None:
    async with make_pool(idle_unload_seconds=0.01) as running:
        await eventually(lambda: not loaded_models(running))
        await eventually(lambda: running.pool._models["a"].transition is None)
        assert running.pool._idle_timer is None
        used = await running.begin_and_hold("a")
        await eventually(lambda: running.pool._idle_timer is None)
        running.hub.decoding["a"].open()
        await used
        await eventually(lambda: not loaded_models(running))


@pytest.fixture
def unloading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A closed gate at which models that are being unloaded wait."""
    gate = Gate()
    gate.close()
    monkeypatch.setattr(pool_module, "_release_memory", gate.pass_by)
    yield gate
    gate.open()


@pytest.mark.parametrize("name", ["a", "b"])
async def test_request_waits_while_a_model_is_unloaded(make_pool: PoolFactory, unloading: Gate, name: str) -> None:
    async with make_pool(idle_unload_seconds=0.01) as running:
        await eventually(unloading.arrived.is_set)
        waiting = await running.begin(name)
        for _ in range(50):  # let anything happen that could
            await asyncio.sleep(0)
        assert running.waiting == [name]
        assert running.hub.loads == ["a"]  # two models would not fit
        unloading.open()
        assert GREETING in await waiting
        assert running.hub.loads == ["a", name]


async def test_reload_that_fails_fails_its_request_only(make_pool: PoolFactory) -> None:
    async with make_pool(idle_unload_seconds=0.01) as running:
        await eventually(lambda: not loaded_models(running))
        running.hub.errors["a"] = ModelUnavailable("The model a can't be loaded: the GPU is full.")
        with pytest.raises(ModelUnavailable, match="the GPU is full"):
            await running.transcribe()
        assert running.pool.ready
        del running.hub.errors["a"]
        assert GREETING in await running.transcribe()
    assert running.deaths == []


async def test_pool_can_be_closed_while_a_model_is_unloaded(make_pool: PoolFactory, unloading: Gate) -> None:
    async with make_pool(idle_unload_seconds=0.01) as running:
        await eventually(unloading.arrived.is_set)
        await running.close()
        unloading.open()
        assert running.pool._models["a"].transition is None
        assert running.pool._idle_timer is None
    assert running.deaths == []


async def test_loaded_model_outlives_the_context_of_its_first_request(make_pool: PoolFactory) -> None:
    jobs: list[CurrentJob | None] = []

    def emit(event: Event) -> None:
        if isinstance(event, BatchDecoded):
            jobs.append(current_job.get())

    async with make_pool(emit=emit) as running:
        with logging_for(CurrentJob("4f0c", 0.0)):
            await running.transcribe("b")
    assert set(jobs) == {None}


def engine_of(running: Rig, name: str) -> tuple[weakref.ref[Any], weakref.ref[Any]]:
    """Return weak references to a model and its engine, which show whether they are still in memory."""
    engine = running.pool._models[name].engine
    assert engine is not None
    return weakref.ref(engine), weakref.ref(engine.model)


async def test_evicted_model_is_freed_before_the_next_is_loaded(make_pool: PoolFactory) -> None:
    async with make_pool() as running:
        await running.transcribe("a")
        first = await running.begin_and_hold("a")
        cancelled = await running.begin("a")
        cancelled.cancel()
        await asyncio.wait([cancelled])
        running.hub.decoding["a"].open()
        references = engine_of(running, "a")
        seen: list[Any] = []
        running.hub.on_load = lambda _: seen.append([reference() for reference in references])
        waiting = await running.begin("b")
        del cancelled
        await asyncio.gather(first, waiting)
        assert seen == [[None, None]]


@pytest.mark.parametrize("error", [TranscriptionFailed, ZeroDivisionError])
async def test_model_that_failed_a_transcription_is_freed(
    make_pool: PoolFactory, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", logger="app.transcription.batcher")  # a captured record would keep the exception
    async with make_pool() as running:
        running.hub.decode_errors["a"] = error
        with pytest.raises(error):
            await running.transcribe("a")
        references = engine_of(running, "a")
        await running.transcribe("b")
        gc.collect()
        assert [reference() for reference in references] == [None, None]


async def test_undecodable_file_keeps_no_model_in_memory(make_pool: PoolFactory, tmp_path: Path) -> None:
    async with make_pool() as running:
        good, running.audio = running.audio, tmp_path / "text"
        running.audio.write_text("no audio at all")
        with pytest.raises(UndecodableAudio):
            await running.transcribe("a")
        running.audio = good
        references = engine_of(running, "a")
        await running.transcribe("b")
        gc.collect()
        assert [reference() for reference in references] == [None, None]


async def test_pool_can_be_closed_while_a_model_loads(make_pool: PoolFactory) -> None:
    async with make_pool(max_loaded=2) as running:
        running.hub.loading["b"].close()
        waiting = await running.begin("b")
        await eventually(running.hub.loading["b"].arrived.is_set)
        await running.close()
        assert running.pool._models["b"].transition is None
        waiting.cancel()
        await asyncio.wait([waiting])
        assert running.hub.loads == ["a", "b"]
    assert running.deaths == []


class FakeEngine:
    """An engine without a model. It fails if it is used after it was unloaded."""

    loaded: list[FakeEngine]

    def __init__(self, replicas: Sequence[Any], **_: Any) -> None:
        self.model = replicas[0]
        self.users = 0
        self.ended = False
        self.loaded.append(self)

    async def transcribe(self, *_: Any, **__: Any) -> Transcript:
        assert not self.ended
        self.users += 1
        try:
            for _turn in range(random.randrange(4)):  # noqa: S311  # a random duration
                await asyncio.sleep(0)
                assert not self.ended
        finally:
            self.users -= 1
        return Transcript(task=Task.TRANSCRIBE, language="english", duration=1.0)

    async def unload(self) -> None:
        assert not self.users
        self.ended = True
        self.loaded.remove(self)
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.ended = True


@pytest.mark.parametrize("idle_unload_seconds", [0, 0.0001])
@pytest.mark.parametrize("seed", range(4))
async def test_every_request_ends_under_random_load(
    make_pool: PoolFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, idle_unload_seconds: float
) -> None:
    random.seed(seed)
    max_loaded = 1 + seed % 2
    monkeypatch.setattr(FakeEngine, "loaded", [], raising=False)
    monkeypatch.setattr(pool_module, "WhisperTranscriber", FakeEngine)
    async with make_pool(max_loaded=max_loaded, idle_unload_seconds=idle_unload_seconds) as running:

        def fail_sometimes(name: str) -> None:
            assert len(FakeEngine.loaded) < max_loaded
            running.hub.errors.pop(name, None)
            if random.random() < 0.2:  # noqa: S311  # a random failure
                running.hub.errors[name] = ModelUnavailable("Not now.")

        running.hub.on_load = fail_sometimes
        tasks = []
        for _ in range(150):
            options = TranscriptionOptions(model=random.choice("abc"))  # noqa: S311
            request = running.pool.transcribe(tmp_path, options, listener=Listener())
            tasks.append(asyncio.create_task(request))
            for _turn in range(random.randrange(3)):  # noqa: S311
                await asyncio.sleep(0)
            if random.random() < 0.3:  # noqa: S311
                random.choice(tasks).cancel()  # noqa: S311
        async with asyncio.timeout(120):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {Transcript, ModelUnavailable, asyncio.CancelledError}
        assert Transcript in kinds
        assert running.waiting == []
        assert [running.users(name) for name in "abc"] == [0, 0, 0]
        await eventually(lambda: all(model.transition is None for model in running.pool._models.values()))
        assert len(FakeEngine.loaded) <= max_loaded
        assert running.deaths == []
