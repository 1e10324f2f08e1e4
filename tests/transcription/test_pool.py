"""Several models in one process: loaded on their first use, in turn where there is no room for all."""

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
from app.domain.transcript import Task, Transcript, TranscriptionOptions
from app.transcription.models import ModelRegistry
from app.transcription.pool import ModelPool
from app.transcription.transcriber import Listener
from app.transcription.whisper import WhisperModel
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from app.transcription.decoding import Decoder
    from app.transcription.window import Window

pytestmark = pytest.mark.anyio

GREETING = "hello this is a test"


class Gate:
    """Where a thread waits for the test, if the test has closed it."""

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
        assert self._open.wait(30)


class EnglishModel(WhisperModel):
    """A model that turns out to know English only."""

    @property
    def is_multilingual(self) -> bool:
        return False


class Shelf:
    """The models by their names, each the demo model: its ``loading`` and its ``decoding`` wait at gates.

    ``events`` are written down in the order in which they happen; ``errors`` are raised instead of loading.
    ``on_load`` is called when a model is about to be loaded; ``real_names`` are what models turn out to be.
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
        model.decode = self._gated(name, model.decode)  # type: ignore[method-assign, assignment]  # held by the test
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
    """A pool over the shelf, and requests to it."""

    def __init__(self, pool: ModelPool, shelf: Shelf, audio: Path, folder: Path, deaths: list[BaseException]) -> None:
        self.pool = pool
        self.shelf = shelf
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
        """The text that the model gives; its end is written down as ``name done``."""
        self._number += 1
        source = self._folder / str(self._number)
        await asyncio.to_thread(shutil.copy, self.audio, source)
        transcript = await self.pool.transcribe(
            source, TranscriptionOptions(model=name, **options), listener=Listener()
        )
        self.shelf.events.append(f"{name} done")
        return transcript.text

    async def begun(self, name: str, **options: Any) -> asyncio.Task[str]:
        """A request that has come to the pool; it waits there, or has come on."""
        before = self._requests()
        task = asyncio.create_task(self.transcribe(name, **options), name=name)
        await eventually(lambda: self._requests() > before or task.done())
        return task

    async def held(self, name: str) -> asyncio.Task[str]:
        """A request that is on its model and stays there until the test opens the gate."""
        gate = self.shelf.decoding[name]
        gate.arrived.clear()
        gate.close()
        task = await self.begun(name)
        await eventually(gate.arrived.is_set)
        return task

    def users(self, name: str) -> int:
        place = self.pool._places.get(name)
        return 0 if place is None else place.users

    @property
    def waiting(self) -> list[str]:
        """The models that requests wait for, in the order of the line."""
        return [one.place.name for one in self.pool._line]

    def _requests(self) -> int:
        return len(self.pool._line) + sum(place.users for place in self.pool._places.values())


@asynccontextmanager
async def pooled(
    shelf: Shelf, decoder: Decoder, audio: Path, folder: Path, *, load: bool = True, **settings: Any
) -> AsyncIterator[Rig]:
    deaths: list[BaseException] = []
    default, *others = shelf.loading
    pool = ModelPool(
        shelf.load,
        model_registry=ModelRegistry(default, others),
        decoder=decoder,
        on_death=deaths.append,
        **{"slots": 2, "batch_size": 8, **settings},
    )
    made = Rig(pool, shelf, audio, folder, deaths)
    try:
        if load:
            await pool.load()
        yield made
    finally:
        shelf.open_all()
        await made.close()


class Pooled:
    """Makes pools over the models ``a`` (the default), ``b`` and ``c``, of which one is loaded at once by default."""

    def __init__(self, model: WhisperModel, decoder: Decoder, audio: Path, folder: Path) -> None:
        self._made = (decoder, audio, folder)
        self.shelf = Shelf(model, "abc")

    def __call__(self, **settings: Any) -> Any:
        return pooled(self.shelf, *self._made, **settings)


@pytest.fixture
def pooling(model: WhisperModel, decoder: Decoder, samples: Path, tmp_path: Path) -> Pooled:
    return Pooled(model, decoder, samples / "hello.wav", tmp_path)


async def test_nothing_is_taken_before_the_default_model_is_loaded(pooling: Pooled) -> None:
    async with pooling(load=False) as running:
        assert not running.pool.ready
        with pytest.raises(ModelLoading, match="still being loaded"):
            await running.transcribe()
        running.shelf.loading["a"].close()
        loading = asyncio.create_task(running.pool.load())
        await eventually(running.shelf.loading["a"].arrived.is_set)
        with pytest.raises(ModelLoading):
            await running.transcribe("b")
        running.shelf.loading["a"].open()
        await loading
        assert running.pool.ready
        assert GREETING in await running.transcribe()


async def test_model_is_loaded_on_its_first_use_and_not_before(pooling: Pooled) -> None:
    async with pooling(max_loaded=3) as running:
        assert running.shelf.loads == ["a"]
        assert GREETING in await running.transcribe()
        assert GREETING in await running.transcribe("b")
        assert running.shelf.loads == ["a", "b"]
        assert [state.loaded for state in running.pool.model_registry.states] == [True, True, False]


async def test_models_that_have_room_stay(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        for name in "abab":
            await running.transcribe(name)
        assert running.shelf.loads == ["a", "b"]


async def test_only_model_that_there_is_room_for_gives_way_and_comes_back(pooling: Pooled) -> None:
    async with pooling() as running:
        for name in ("a", "b", "a"):
            await running.transcribe(name)
        assert running.shelf.loads == ["a", "b", "a"]
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, False]
        assert running.pool.ready


async def test_model_gives_way_that_was_asked_for_longest_ago(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        for name in "abac":
            await running.transcribe(name)
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, True]
        await running.transcribe("a")
        assert running.shelf.loads == ["a", "b", "c"]


async def test_model_that_worked_until_just_now_does_not_give_way_to_one_that_was_idle(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        long = await running.held("a")
        await running.transcribe("b")
        running.shelf.decoding["a"].open()
        await long
        await running.transcribe("c")
        assert [state.loaded for state in running.pool.model_registry.states] == [True, False, True]


async def test_model_never_gives_way_while_a_request_is_on_it(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        other = await running.begun("b")
        assert running.waiting == ["b"]
        assert running.shelf.loads == ["a"]
        running.shelf.decoding["a"].open()
        assert GREETING in await first
        assert GREETING in await other
        assert running.shelf.events == ["load a", "a done", "load b", "b done"]


async def test_model_gives_way_only_after_the_last_of_its_requests(pooling: Pooled) -> None:
    async with pooling() as running:
        first, second = await running.held("a"), await running.begun("a")
        other = await running.begun("b")
        first.cancel()
        await asyncio.wait([first])
        assert running.users("a") == 1
        assert running.shelf.loads == ["a"]
        running.shelf.decoding["a"].open()
        await asyncio.gather(second, other)
        assert running.shelf.events == ["load a", "a done", "load b", "b done"]


async def test_model_gives_way_when_the_batch_of_its_cancelled_request_has_ended(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        other = await running.begun("b")
        first.cancel()
        await asyncio.wait([first])
        await eventually(lambda: not running.pool.model_registry.find("a").loaded)
        for _ in range(50):  # whatever might come next has its chance
            await asyncio.sleep(0)
        assert running.shelf.loads == ["a"]  # it is on the device still
        running.shelf.decoding["a"].open()
        await other
        assert running.shelf.loads == ["a", "b"]


async def test_idle_model_gives_way_at_once_while_the_other_is_used(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        await running.transcribe("b")
        first = await running.held("a")
        await running.transcribe("c")
        assert running.shelf.loads == ["a", "b", "c"]
        assert not first.done()
        running.shelf.decoding["a"].open()
        await first


async def test_later_request_for_a_loaded_model_does_not_overtake_one_that_waits_for_room(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        waits_for_room = await running.begun("b")
        later = await running.begun("a")
        assert running.waiting == ["b", "a"]
        running.shelf.decoding["a"].open()
        await asyncio.gather(first, waits_for_room, later)
        assert running.shelf.events == ["load a", "a done", "load b", "b done", "load a", "a done"]


async def test_those_that_wait_for_the_same_model_come_in_together(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        waiting = [await running.begun(name) for name in ("b", "a", "b")]
        running.shelf.decoding["b"].close()
        running.shelf.decoding["a"].open()
        await first
        await eventually(lambda: running.users("b") == 2)
        assert running.waiting == ["a"]
        running.shelf.decoding["b"].open()
        await asyncio.gather(*waiting)
        assert running.shelf.loads == ["a", "b", "a"]


async def test_two_requests_for_the_same_unloaded_model_load_it_once(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.loading["b"].close()
        waiting = [await running.begun("b") for _ in range(3)]
        assert running.shelf.loads == ["a", "b"]
        running.shelf.loading["b"].open()
        assert all(GREETING in text for text in await asyncio.gather(*waiting))
        assert running.shelf.loads == ["a", "b"]


async def test_loaded_model_is_used_while_another_is_being_loaded(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        running.shelf.loading["b"].close()
        waiting = await running.begun("b")
        assert GREETING in await running.transcribe("a")
        running.shelf.loading["b"].open()
        await waiting


async def test_room_for_a_model_that_is_being_loaded_is_taken(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.loading["b"].close()
        waiting = [await running.begun(name) for name in ("b", "c")]
        await eventually(running.shelf.loading["b"].arrived.is_set)
        assert running.shelf.loads == ["a", "b"]
        running.shelf.loading["b"].open()
        await asyncio.gather(*waiting)
        assert running.shelf.events[1:] == ["load b", "b done", "load c", "c done"]


async def test_model_that_can_not_be_loaded_fails_its_own_requests_and_no_others(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.errors["b"] = ModelUnavailable("The model b can't be loaded: the hub is away.")
        running.shelf.loading["b"].close()
        failing = [await running.begun("b") for _ in range(2)]
        others = [await running.begun(name) for name in "ca"]
        running.shelf.loading["b"].open()
        for task in failing:
            with pytest.raises(ModelUnavailable, match="the hub is away"):
                await task
        assert all(GREETING in text for text in await asyncio.gather(*others))
        assert running.shelf.loads == ["a", "b", "c", "a"]
        assert running.deaths == []
        assert not running.pool.failing
        assert not running.pool.model_registry.find("b").loaded


async def test_model_that_could_not_be_loaded_is_tried_again_by_the_next_request(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.errors["b"] = ModelUnavailable("The model b can't be loaded: the hub is away.")
        for _ in range(2):
            with pytest.raises(ModelUnavailable):
                await running.transcribe("b")
        del running.shelf.errors["b"]
        assert GREETING in await running.transcribe("b")
        assert running.shelf.loads == ["a", "b", "b", "b"]


async def test_default_model_that_can_not_be_loaded_is_told_to_the_start(pooling: Pooled) -> None:
    pooling.shelf.errors["a"] = ModelUnavailable("The model a can't be loaded: there is none.")
    async with pooling(load=False) as running:
        with pytest.raises(ModelUnavailable, match="there is none"):
            await running.pool.load()
        assert not running.pool.ready
        assert running.deaths == []


async def test_unexpected_exception_in_loading_fails_those_who_wait_and_ends_the_service(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.errors["b"] = ZeroDivisionError()
        running.shelf.loading["b"].close()
        waiting = [await running.begun("b") for _ in range(2)]
        running.shelf.loading["b"].open()
        for task in waiting:
            with pytest.raises(EngineFailed, match=r"failed \(ZeroDivisionError\) and the server restarts"):
                await task
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        assert running.pool.failing


async def test_engine_that_dies_ends_the_service(pooling: Pooled) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async with pooling(max_loaded=2) as running:
        await running.transcribe("b")
        engine = running.pool._places["b"].engine
        assert engine is not None
        engine._batcher.scheduler.next_step = broken  # a bug of ours
        with pytest.raises(EngineFailed):
            await running.transcribe("b")
        assert [type(death) for death in running.deaths] == [ZeroDivisionError]
        assert running.pool.failing


async def test_cancelled_request_leaves_the_line_and_those_behind_it_go_on(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        waits_for_room, behind = await running.begun("b"), await running.begun("a")
        assert running.waiting == ["b", "a"]
        waits_for_room.cancel()
        await asyncio.wait([waits_for_room])
        assert running.waiting == []
        assert running.users("a") == 2
        running.shelf.decoding["a"].open()
        await asyncio.gather(first, behind)
        assert running.shelf.loads == ["a"]


async def test_requests_that_are_cancelled_while_their_model_is_loaded_leave_it_to_the_others(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.loading["b"].close()
        waiting = [await running.begun("b") for _ in range(2)]
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        running.shelf.loading["b"].open()
        assert GREETING in await waiting[1]
        await eventually(lambda: not running.users("b"))
        assert running.shelf.loads == ["a", "b"]


async def test_model_that_nobody_waits_for_any_more_when_it_has_been_loaded_gives_way(pooling: Pooled) -> None:
    async with pooling() as running:
        running.shelf.loading["b"].close()
        cancelled, other = await running.begun("b"), await running.begun("a")
        cancelled.cancel()
        await asyncio.wait([cancelled])
        running.shelf.loading["b"].open()
        assert GREETING in await other
        assert running.shelf.loads == ["a", "b", "a"]


async def test_request_that_is_cancelled_in_the_moment_it_comes_in_holds_nothing(pooling: Pooled) -> None:
    async with pooling() as running:
        first = await running.held("a")
        waiting = await running.begun("b")
        (one,) = running.pool._line
        one.came_on.add_done_callback(lambda _: waiting.cancel())
        running.shelf.decoding["a"].open()
        await first
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert running.users("b") == 0
        assert GREETING in await running.transcribe("a")


async def test_unknown_model_is_refused_without_a_place_in_the_line(pooling: Pooled) -> None:
    async with pooling() as running:
        with pytest.raises(UnknownModel):
            await running.transcribe("d")
        assert running.waiting == []
        assert running.shelf.loads == ["a"]


async def test_what_a_model_is_trained_for_is_known_once_it_is_loaded(pooling: Pooled) -> None:
    pooling.shelf.english.add("b")
    async with pooling() as running:
        with pytest.raises(InvalidRequest, match="The model b can't translate"):
            await running.transcribe("b", task=Task.TRANSLATE)
        with pytest.raises(InvalidRequest, match="the model b knows English only"):
            await running.transcribe("b", language="de")
        assert running.users("b") == 0
        assert GREETING in await running.transcribe("b", language="en")
        assert running.shelf.loads == ["a", "b"]


async def test_auto_that_turns_out_to_be_another_of_the_models_is_loaded_once(pooling: Pooled) -> None:
    pooling.shelf.real_names["a"] = "c"
    async with pooling(max_loaded=3) as running:
        assert running.pool.model_registry.default.name == "c"
        assert GREETING in await running.transcribe("c")
        assert GREETING in await running.transcribe()
        assert running.shelf.loads == ["a"]
        with pytest.raises(UnknownModel):
            await running.transcribe("a")


async def test_auto_that_has_given_way_is_loaded_again_by_its_real_name(pooling: Pooled) -> None:
    pooling.shelf.real_names["a"] = "c"
    async with pooling() as running:
        for name in (None, "b", None):
            assert GREETING in await running.transcribe(name)
        assert running.shelf.loads == ["a", "b", "c"]
        assert [state.name for state in running.pool.model_registry.states if state.loaded] == ["c"]


@pytest.mark.parametrize("slots", [1, 2])
async def test_permits_are_counted_over_all_models(pooling: Pooled, slots: int) -> None:
    async with pooling(max_loaded=2, slots=slots) as running:
        await running.transcribe("b")
        first = await running.held("a")
        assert running.pool.active == 1
        second = await (running.held("b") if slots == 2 else running.begun("b"))
        await eventually(lambda: running.users("b") == 1)
        assert running.pool.active == slots
        running.shelf.open_all()
        await asyncio.gather(first, second)
        assert running.pool.active == 0


def engine_of(running: Rig, name: str) -> tuple[weakref.ref[Any], weakref.ref[Any]]:
    """What tells whether the engine of a model, and the model itself, are in memory still."""
    engine = running.pool._places[name].engine
    assert engine is not None
    return weakref.ref(engine), weakref.ref(engine.model)


async def test_model_is_gone_from_memory_before_the_one_that_it_gives_way_to_is_loaded(pooling: Pooled) -> None:
    async with pooling() as running:
        await running.transcribe("a")
        first = await running.held("a")
        cancelled = await running.begun("a")
        cancelled.cancel()
        await asyncio.wait([cancelled])
        running.shelf.decoding["a"].open()
        remains = engine_of(running, "a")
        seen: list[Any] = []
        running.shelf.on_load = lambda _: seen.append([one() for one in remains])
        waiting = await running.begun("b")
        del cancelled
        await asyncio.gather(first, waiting)
        assert seen == [[None, None]]


@pytest.mark.parametrize("error", [TranscriptionFailed, ZeroDivisionError])
async def test_model_at_which_a_request_has_failed_is_gone_from_memory_too(
    pooling: Pooled, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", logger="app.transcription.batcher")  # what is captured would keep the exception
    async with pooling() as running:
        running.shelf.decode_errors["a"] = error
        with pytest.raises(error):
            await running.transcribe("a")
        remains = engine_of(running, "a")
        await running.transcribe("b")
        gc.collect()
        assert [one() for one in remains] == [None, None]


async def test_file_that_is_no_audio_keeps_no_model_in_memory(pooling: Pooled, tmp_path: Path) -> None:
    async with pooling() as running:
        good, running.audio = running.audio, tmp_path / "text"
        running.audio.write_text("no audio at all")
        with pytest.raises(UndecodableAudio):
            await running.transcribe("a")
        running.audio = good
        remains = engine_of(running, "a")
        await running.transcribe("b")
        gc.collect()
        assert [one() for one in remains] == [None, None]


async def test_pool_closes_while_a_model_is_being_loaded(pooling: Pooled) -> None:
    async with pooling(max_loaded=2) as running:
        running.shelf.loading["b"].close()
        waiting = await running.begun("b")
        await eventually(running.shelf.loading["b"].arrived.is_set)
        await running.close()
        assert running.pool._places["b"].loading is None
        waiting.cancel()
        await asyncio.wait([waiting])
        assert running.shelf.loads == ["a", "b"]
    assert running.deaths == []


class CheapEngine:
    """Stands for an engine where only its comings and goings matter. Fails when it is used after its end."""

    loaded: list[CheapEngine]

    def __init__(self, replicas: Sequence[Any], **_: Any) -> None:
        self.model = replicas[0]
        self.users = 0
        self.ended = False
        self.loaded.append(self)

    async def transcribe(self, *_: Any, **__: Any) -> Transcript:
        assert not self.ended
        self.users += 1
        try:
            for _turn in range(random.randrange(4)):  # noqa: S311  # how long it takes
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


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_and_goes_every_request_has_its_end(
    pooling: Pooled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    random.seed(seed)
    max_loaded = 1 + seed % 2
    monkeypatch.setattr(CheapEngine, "loaded", [], raising=False)
    monkeypatch.setattr(pool_module, "WhisperTranscriber", CheapEngine)
    async with pooling(max_loaded=max_loaded) as running:

        def now_and_then(name: str) -> None:
            assert len(CheapEngine.loaded) < max_loaded
            running.shelf.errors.pop(name, None)
            if random.random() < 0.2:  # noqa: S311  # as it happens
                running.shelf.errors[name] = ModelUnavailable("Not now.")

        running.shelf.on_load = now_and_then
        tasks = []
        for _ in range(150):
            options = TranscriptionOptions(model=random.choice("abc"))  # noqa: S311
            request = running.pool.transcribe(tmp_path, options, listener=Listener())
            tasks.append(asyncio.create_task(request))
            for _turn in range(random.randrange(3)):  # noqa: S311
                await asyncio.sleep(0)
            if random.random() < 0.3:  # noqa: S311
                random.choice(tasks).cancel()  # noqa: S311
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {Transcript, ModelUnavailable, asyncio.CancelledError}
        assert Transcript in kinds
        assert running.waiting == []
        assert [running.users(name) for name in "abc"] == [0, 0, 0]
        await eventually(lambda: all(place.loading is None for place in running.pool._places.values()))
        assert len(CheapEngine.loaded) <= max_loaded
        assert running.deaths == []
