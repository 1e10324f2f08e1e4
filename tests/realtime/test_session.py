"""A session without a connection: events in, events out."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from app.domain.errors import QuotaExceeded, TranscriptionFailed
from app.domain.events import SessionEnd, SessionEnded, UtteranceTranscribed
from app.domain.usage import Usage
from app.realtime.audio import RATE
from app.realtime.config import SessionConfig
from app.realtime.session import Session, SessionLimits
from app.transcription.models import ModelRegistry
from tests.support.live_models import ScriptedModel, silence, speech
from tests.support.realtime_events import checked
from tests.support.waiting import LIMIT_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.domain.events import Event
    from app.realtime.audio import Samples

pytestmark = pytest.mark.anyio

_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription"
DELTA: Final = f"{_TRANSCRIPTION}.delta"
COMPLETED: Final = f"{_TRANSCRIPTION}.completed"
FAILED: Final = f"{_TRANSCRIPTION}.failed"
COMMITTED: Final = "input_audio_buffer.committed"
STARTED: Final = "input_audio_buffer.speech_started"
STOPPED: Final = "input_audio_buffer.speech_stopped"
MANUAL: Final = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


class Client:
    """The client of a session, and its connection."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.events: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> str | bytes | None:
        return await self.inbox.get()

    async def send(self, text: str) -> None:
        await self.may_read.wait()
        event = checked(json.loads(text))
        self.events.append(event)
        self._received.put_nowait(event)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    def put(self, kind: str, **members: Any) -> None:
        self.inbox.put_nowait(json.dumps({"type": kind, **members}))

    def update(self, session: Any) -> None:
        self.put("session.update", session=session)

    def say(self, *parts: Samples) -> None:
        """Send audio in events of 0.1 s."""
        audio = np.concatenate(parts)
        content = np.repeat(audio, 3)[::2].astype("<i2").tobytes()  # 24 kHz
        for start in range(0, len(content), 4_800):
            self.put("input_audio_buffer.append", audio=base64.b64encode(content[start : start + 4_800]).decode())

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of this type, and skip the others."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while (event := await self._received.get())["type"] != kind:
                assert event["type"] != "error", event
            return event

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def text(self, item_id: str) -> str:
        """Return the text of an item's deltas."""
        return "".join(
            event["delta"] for event in self.events if event["type"] == DELTA and event["item_id"] == item_id
        )


class Account:
    """The usage of a key with a quota."""

    def __init__(self) -> None:
        self.quota_seconds = 3600.0
        self.used = Usage()
        self.models: set[str] = set()

    def add(self, model: str, usage: Usage) -> None:
        self.models.add(model)
        self.used += usage

    @property
    def counted(self) -> tuple[float, int]:
        """The seconds and the requests."""
        return self.used.seconds, self.used.requests

    def check(self) -> None:
        if self.used.seconds >= self.quota_seconds:
            raise QuotaExceeded("This API key has used its audio for today.")


class Rig:
    """A session with its client."""

    def __init__(self, model: ScriptedModel, **limits: float) -> None:
        self.client = Client()
        self.account = Account()
        self.emitted: list[Event] = []
        self.session = Session(
            self.client,
            model,
            SessionConfig(),
            account=self.account,
            limits=SessionLimits(**{"session_seconds": 3600, "idle_seconds": 0, "finish_seconds": 60, **limits}),
            emit=self.emitted.append,
        )
        self.task = asyncio.create_task(self.session.run())

    async def ended(self) -> SessionEnd:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.task


@asynccontextmanager
async def session(model: ScriptedModel, **limits: float) -> AsyncIterator[Rig]:
    rig = Rig(model, **limits)
    try:
        yield rig
    finally:
        rig.client.inbox.put_nowait(None)
        model.may_end.set()
        model.guesses_may_end.set()
        rig.client.may_read.set()
        await rig.ended()


async def test_session_begins_with_its_configuration() -> None:
    async with session(ScriptedModel()) as rig:
        created = await rig.client.until("session.created")
        assert created["session"]["type"] == "transcription"
        assert created["session"]["id"] == rig.session.id
        rig.client.update({"audio": {"input": {"noise_reduction": {"type": "far_field"}}}})
        updated = await rig.client.until("session.updated")
        assert updated["session"]["audio"]["input"]["noise_reduction"] == {"type": "far_field"}
        assert "noise_reduction" in updated["warnings"][0]


async def test_client_commits() -> None:
    model = ScriptedModel(texts=["hello", "again"])
    async with session(model) as rig:
        rig.client.update(MANUAL)
        items = []
        for _ in range(2):
            rig.client.say(silence(0.5), speech(0.3), silence(0.2))
            rig.client.put("input_audio_buffer.commit")
            items.append(await rig.client.until(COMPLETED))
        assert [item["transcript"] for item in items] == ["hello", "again"]
        assert items[0]["usage"] == {"type": "duration", "seconds": pytest.approx(1.0, abs=0.01)}
        assert items[0]["languages"] == [{"code": "en"}]
        assert rig.client.types() == [
            "session.created",
            "session.updated",
            *2 * [COMMITTED, "conversation.item.added", "conversation.item.done", DELTA, COMPLETED],
        ]
        committed = [event for event in rig.client.events if event["type"] == COMMITTED]
        assert [event["previous_item_id"] for event in committed] == [None, items[0]["item_id"]]
        assert sum(map(len, model.transcribed)) == pytest.approx(2 * RATE, abs=100)
    assert [type(event) for event in rig.emitted] == [UtteranceTranscribed, UtteranceTranscribed, SessionEnded]


async def test_server_finds_utterances() -> None:
    model = ScriptedModel(texts=["one", "two"])
    async with session(model) as rig:
        rig.client.say(silence(1.0), speech(1.0), silence(1.0), speech(0.5), silence(1.0))
        first, second = await rig.client.until(COMPLETED), await rig.client.until(COMPLETED)
        assert (first["transcript"], second["transcript"]) == ("one", "two")
        started = [event for event in rig.client.events if event["type"] == STARTED]
        stopped = [event for event in rig.client.events if event["type"] == STOPPED]
        assert [event["audio_start_ms"] for event in started] == pytest.approx([700, 2700], abs=70)  # 300 ms before
        assert [event["audio_end_ms"] for event in stopped] == pytest.approx([2500, 4000], abs=70)  # 500 ms after
        assert [event["item_id"] for event in started] == [first["item_id"], second["item_id"]]
        types = [kind for kind in rig.client.types() if kind != DELTA]
        assert types.index(STARTED) < types.index(STOPPED) < types.index(COMMITTED) < types.index(COMPLETED)
        assert [len(audio) / RATE for audio in model.transcribed] == pytest.approx([1.8, 1.3], abs=0.1)


async def test_each_utterance_continues_the_ones_before() -> None:
    model = ScriptedModel(texts=["one", "two"])
    async with session(model) as rig:
        rig.client.update(MANUAL)
        for _ in range(2):
            rig.client.say(speech(1.0))
            rig.client.put("input_audio_buffer.commit")
            await rig.client.until(COMPLETED)
        assert [context.text for context in model.contexts] == ["", "one"]
        assert model.contexts[1].options == model.options[1]


async def test_late_utterances_have_no_context() -> None:
    model = ScriptedModel(texts=["one", "two", "three", "four"])
    model.may_end.clear()
    async with session(model) as rig:
        rig.client.update(MANUAL)
        for _ in range(4):
            rig.client.say(speech(18.0))
            rig.client.put("input_audio_buffer.commit")
            await rig.client.until(COMMITTED)
        model.may_end.set()
        for _ in range(4):
            await rig.client.until(COMPLETED)
        assert [context.text for context in model.contexts] == ["", "", "two", "three"]


async def test_silence_makes_no_item() -> None:
    async with session(model := ScriptedModel()) as rig:
        rig.client.say(silence(5.0))
        rig.client.update({})
        await rig.client.until("session.updated")
        assert rig.client.types() == ["session.created", "session.updated"]
    assert model.transcribed == []


async def test_words_appear_while_somebody_speaks() -> None:
    guesses = ["the quick", "the quick brown", "the quick brown fox"]
    model = ScriptedModel(guesses=guesses, texts=["the quick brown fox jumps"])
    async with session(model) as rig:
        rig.client.update({"audio": {"input": {"turn_detection": {"prefix_padding_ms": 0}}}})
        for _ in range(3):
            before = len(model.guessed)
            while len(model.guessed) == before:
                rig.client.say(speech(0.1))
                await asyncio.sleep(0)
        delta = await rig.client.until(DELTA)
        assert delta["delta"] == "the quick"
        assert COMMITTED not in rig.client.types()
        rig.client.say(silence(1.0))
        completed = await rig.client.until(COMPLETED)
        assert completed["transcript"] == "the quick brown fox jumps"
        assert rig.client.text(completed["item_id"]) == completed["transcript"]
        assert all(later > sooner for (sooner, _), (later, _) in pairwise(model.guessed))
        assert model.guessed[-1][1] in {(0, 1), (0, 1, 2)}  # guesses continue what was agreed on


async def test_final_text_may_differ_from_what_was_shown() -> None:
    model = ScriptedModel(guesses=["ice cream"], texts=["I scream, you scream"])
    async with session(model) as rig:
        while len(model.guessed) < 2:
            rig.client.say(speech(0.1))
            await asyncio.sleep(0)
        await rig.client.until(DELTA)
        rig.client.say(silence(1.0))
        completed = await rig.client.until(COMPLETED)
        assert completed["transcript"] == "I scream, you scream"
        assert rig.client.text(completed["item_id"]) == "ice cream you scream"


async def test_guesses_do_not_queue() -> None:
    model = ScriptedModel(guesses=["slow"], texts=["fast"])
    model.guesses_may_end.clear()
    async with session(model) as rig:
        rig.client.say(speech(10.0), silence(1.0))
        completed = await rig.client.until(COMPLETED)  # the end of the utterance does not wait for the guess
        assert completed["transcript"] == "fast"
        assert len(model.guessed) == 1


async def test_guess_begins_after_a_pause() -> None:
    model = ScriptedModel(guesses=["long words"], texts=["long words short"])
    async with session(model) as rig:
        for part in ([speech(0.1)] * 70, [silence(0.3)], [speech(0.1)] * 30):
            for samples in part:
                rig.client.say(samples)
                await eventually(rig.client.inbox.empty)
                for _ in range(20):
                    await asyncio.sleep(0)
        lengths = [length / RATE for length, _ in model.guessed]
        assert max(lengths) == pytest.approx(7.3, abs=0.3)
        assert lengths[-1] < 3.5
        assert model.guessed[lengths.index(max(lengths)) + 1][1] == ()
        rig.client.say(silence(1.0))
        completed = await rig.client.until(COMPLETED)
        assert rig.client.text(completed["item_id"]).startswith("long words")


async def test_utterances_are_completed_in_order() -> None:
    model = ScriptedModel(guesses=["b"], texts=["a", "b"])
    model.may_end.clear()
    async with session(model) as rig:
        rig.client.say(speech(0.5), silence(1.0), speech(3.0), silence(1.0))
        second = None
        while second is None:
            events = [event for event in rig.client.events if event["type"] == COMMITTED]
            second = events[1]["item_id"] if len(events) > 1 else None
            await asyncio.sleep(0)
        assert rig.client.text(second) == ""
        model.may_end.set()
        assert (await rig.client.until(COMPLETED))["transcript"] == "a"
        assert (await rig.client.until(COMPLETED))["item_id"] == second


async def test_long_utterance_is_transcribed_in_windows() -> None:
    model = ScriptedModel(texts=["first part", "second part"])
    async with session(model) as rig:
        rig.client.say(*[speech(0.5)] * 60, silence(1.0))
        completed = await rig.client.until(COMPLETED)
        assert completed["transcript"] == "first part second part"
        assert completed["usage"]["seconds"] == pytest.approx(30.5, abs=0.1)
        assert len(model.transcribed) == 2


async def test_clear_drops_the_utterance() -> None:
    model = ScriptedModel(texts=["kept"])
    async with session(model) as rig:
        rig.client.update(MANUAL)
        rig.client.say(speech(1.0))
        rig.client.put("input_audio_buffer.clear")
        await rig.client.until("input_audio_buffer.cleared")
        rig.client.say(speech(0.5))
        rig.client.put("input_audio_buffer.commit")
        assert (await rig.client.until(COMPLETED))["transcript"] == "kept"
        assert rig.client.types().count(COMMITTED) == 1
    assert sum(map(len, model.transcribed)) == pytest.approx(0.5 * RATE, abs=100)


async def test_final_texts_count_as_usage() -> None:
    model = ScriptedModel(texts=["first part", "second part", "short"])
    async with session(model) as rig:
        rig.client.say(*[speech(0.5)] * 60, silence(1.0))
        long = await rig.client.until(COMPLETED)
        assert rig.account.counted == pytest.approx((long["usage"]["seconds"], 1), abs=0.01)
        rig.client.say(speech(1.0), silence(1.0))
        short = await rig.client.until(COMPLETED)
        seconds = long["usage"]["seconds"] + short["usage"]["seconds"]
        assert rig.account.counted == pytest.approx((seconds, 2), abs=0.01)
        assert rig.account.models == {"demo"}
        rig.client.say(silence(20.0))
        rig.client.update({})
        await rig.client.until("session.updated")
        assert rig.account.used.requests == 2


async def test_window_counts_when_its_text_is_final() -> None:
    model = ScriptedModel(texts=["first part", "second part"])
    async with session(model) as rig:
        rig.client.say(*[speech(0.5)] * 58)
        await rig.client.until(DELTA)
        assert rig.account.counted == pytest.approx((28.0, 1), abs=0.1)


@pytest.mark.parametrize("is_cleared", [True, False], ids=["cleared", "left"])
async def test_words_that_were_shown_count_without_a_final_text(*, is_cleared: bool) -> None:
    model = ScriptedModel(guesses=["the quick"])
    async with session(model) as rig:
        while DELTA not in rig.client.types():
            rig.client.say(speech(0.1))
            await asyncio.sleep(0)
        if is_cleared:
            rig.client.put("input_audio_buffer.clear")
            await rig.client.until("input_audio_buffer.cleared")
        rig.client.inbox.put_nowait(None)
        assert await rig.ended() is SessionEnd.CLIENT_LEFT
    assert rig.account.used.requests == 1
    assert rig.account.used.seconds >= 1.0


async def test_audio_without_words_does_not_count() -> None:
    async with session(ScriptedModel()) as rig:
        rig.client.update(MANUAL)
        rig.client.say(speech(5.0))
        rig.client.put("input_audio_buffer.clear")
        await rig.client.until("input_audio_buffer.cleared")
        assert rig.account.used == Usage()


async def test_session_that_uses_its_quota_up_is_finished_and_closed() -> None:
    model = ScriptedModel(texts=["one", "two"])
    model.may_end.clear()
    async with session(model) as rig:
        rig.account.quota_seconds = 1.0
        rig.client.say(speech(1.0), silence(1.0), speech(1.0))
        await rig.client.until(STARTED)
        await rig.client.until(STARTED)
        model.may_end.set()
        assert await rig.ended() is SessionEnd.QUOTA
        completed = [event["transcript"] for event in rig.client.events if event["type"] == COMPLETED]
        assert completed == ["one", "two"]
        error = rig.client.events[-1]["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert "connect again after 00:00 UTC" in error["message"]
        assert rig.client.closed == (1000, "insufficient_quota")
        assert rig.account.used.requests == 2


async def test_commit_needs_audio() -> None:
    async with session(ScriptedModel()) as rig:
        rig.client.say(silence(0.05))
        rig.client.put("input_audio_buffer.commit", event_id="mine")
        error = (await rig.client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")


async def test_client_can_commit_before_the_silence() -> None:
    async with session(ScriptedModel(texts=["early"])) as rig:
        rig.client.say(silence(0.5), speech(0.5))
        rig.client.put("input_audio_buffer.commit")
        assert (await rig.client.until(COMPLETED))["transcript"] == "early"
        rig.client.say(silence(2.0))
        rig.client.update({})
        await rig.client.until("session.updated")
        assert rig.client.types().count(COMMITTED) == 1


async def test_committed_silence_is_an_empty_item() -> None:
    async with session(ScriptedModel(texts=[""])) as rig:
        rig.client.say(silence(3.0))
        rig.client.put("input_audio_buffer.commit")
        assert (await rig.client.until(COMPLETED))["transcript"] == ""


async def test_failure_concerns_one_item() -> None:
    model = ScriptedModel(texts=[TranscriptionFailed("The model failed (x)."), ValueError("a bug"), "fine"])
    async with session(model) as rig:
        rig.client.update(MANUAL)
        for message in ("The model failed (x).", "Internal error: see the server's log for its cause."):
            rig.client.say(speech(0.5))
            rig.client.put("input_audio_buffer.commit")
            assert (await rig.client.until(FAILED))["error"]["message"] == message
        rig.client.say(speech(0.5))
        rig.client.put("input_audio_buffer.commit")
        assert (await rig.client.until(COMPLETED))["transcript"] == "fine"


async def test_unknown_model_is_refused() -> None:
    async with session(ScriptedModel()) as rig:
        rig.client.update({"audio": {"input": {"transcription": {"model": "gpt-9"}}}})
        error = (await rig.client.until("error"))["error"]
        assert error["code"] == "model_not_found"
        assert error["param"] == "session.audio.input.transcription.model"


async def test_any_model_is_served_with_a_warning_if_accepted() -> None:
    model = ScriptedModel(texts=["hello"])
    model.registry = ModelRegistry("demo", accepts_any=True)
    async with session(model) as rig:
        rig.client.update({"audio": {"input": {"transcription": {"model": "gpt-9"}, "turn_detection": None}}})
        updated = await rig.client.until("session.updated")
        assert updated["warnings"] == ["`model` 'gpt-9' is none of this server's names, so demo was used."]
        assert updated["session"]["audio"]["input"]["transcription"]["model"] == "gpt-9"


async def test_candidates_must_be_languages_of_the_model() -> None:
    model = ScriptedModel()
    model.registry = ModelRegistry("tiny.en")
    async with session(model) as rig:
        rig.client.update({"audio": {"input": {"transcription": {"languages": ["en", "de"]}}}})
        error = (await rig.client.until("error"))["error"]
        assert "the model tiny.en only knows English" in error["message"]


async def test_formats_can_change() -> None:
    model = ScriptedModel(texts=["phone"])
    async with session(model) as rig:
        rig.client.update({"audio": {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}})
        rig.client.put("input_audio_buffer.append", audio=base64.b64encode(b"\x80" * 8_000).decode())
        rig.client.put("input_audio_buffer.commit")
        completed = await rig.client.until(COMPLETED)
        assert completed["usage"]["seconds"] == pytest.approx(1.0, abs=0.01)
        assert np.abs(model.transcribed[0][100:]).min() > 30_000


async def test_garbage_is_answered_and_then_closed() -> None:
    async with session(ScriptedModel()) as rig:
        for _ in range(30):
            rig.client.inbox.put_nowait(b"\x00garbage")
        assert await rig.ended() is SessionEnd.INVALID
        errors = [event["error"]["code"] for event in rig.client.events if event["type"] == "error"]
        assert errors == ["invalid_json"] * 20 + ["too_many_invalid_events"]
        assert rig.client.closed == (1008, "too_many_invalid_events")


async def test_client_that_leaves_ends_its_session() -> None:
    model = ScriptedModel()
    model.may_end.clear()
    async with session(model) as rig:
        rig.client.say(speech(1.0), silence(1.0))
        await rig.client.until(COMMITTED)
        rig.client.inbox.put_nowait(None)
        assert await rig.ended() is SessionEnd.CLIENT_LEFT
    assert not [task for task in asyncio.all_tasks() if rig.session.id in task.get_name()]


async def test_silent_client_is_closed_with_the_reason() -> None:
    async with session(ScriptedModel(), idle_seconds=0.05) as rig:
        assert await rig.ended() is SessionEnd.IDLE
        assert rig.client.events[-1]["error"]["code"] == "session_idle"
        assert "REALTIME_IDLE_SECONDS" in rig.client.events[-1]["error"]["message"]
        assert rig.client.closed == (1008, "session_idle")


@pytest.mark.parametrize("reason", [SessionEnd.DRAINED, SessionEnd.EXPIRED])
async def test_what_was_said_is_transcribed_before_the_end(reason: SessionEnd) -> None:
    model = ScriptedModel(texts=["the last words"])
    async with session(model) as rig:
        rig.client.say(speech(1.0))
        await rig.client.until(STARTED)
        rig.session.end(reason)
        assert await rig.ended() is reason
        assert rig.client.types()[-2:] == [COMPLETED, "error"]
        assert rig.client.events[-2]["transcript"] == "the last words"
        assert rig.client.closed is not None
        assert rig.client.closed[0] == 1001


async def test_session_has_a_longest_time() -> None:
    async with session(ScriptedModel(), session_seconds=0.05) as rig:
        assert await rig.ended() is SessionEnd.EXPIRED
        assert rig.client.events[-1]["error"]["code"] == "session_expired"


async def test_end_does_not_wait_for_ever() -> None:
    model = ScriptedModel()
    model.may_end.clear()
    async with session(model, finish_seconds=0.05) as rig:
        rig.client.say(speech(1.0), silence(1.0))
        await rig.client.until(COMMITTED)
        rig.session.end(SessionEnd.DRAINED)
        assert await rig.ended() is SessionEnd.DRAINED
        assert rig.client.events[-1]["error"]["code"] == "draining"


async def test_client_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.realtime.session._FLUSH_SECONDS", 0.05)
    async with session(ScriptedModel()) as rig:
        await rig.client.until("session.created")
        rig.client.may_read.clear()
        for _ in range(3_000):
            rig.client.update({})
        assert await rig.ended() is SessionEnd.SLOW_READER
        assert rig.client.closed == (1008, "slow_reader")


async def test_client_that_is_too_fast_is_closed_with_the_reason() -> None:
    model = ScriptedModel(texts=["x"])
    model.may_end.clear()
    async with session(model, finish_seconds=0.05) as rig:
        rig.client.update(MANUAL)
        for _ in range(80):
            rig.client.say(speech(5.0))
        assert await rig.ended() is SessionEnd.TOO_FAST
        assert rig.client.closed == (1008, "too_fast")
        assert "/v1/audio/transcriptions" in rig.client.events[-1]["error"]["message"]
        assert rig.session._received / RATE == pytest.approx(310, abs=15)
