"""One session: it reads the client's events, finds utterances in its audio, and sends the events that follow.

Three tasks share the work. One reads a message, processes it completely, and only then reads the next. One transcribes
utterances. One sends what is in the outbox. The audio that waits and the outbox are limited: a client that exceeds a
limit learns why and is closed. Not to read from it instead would leave its pings unanswered behind its audio, and after
20 s clients would end such a connection without a reason.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from app.domain.errors import InvalidRequest, QuotaExceeded
from app.domain.events import SessionEnd, SessionEnded
from app.domain.usage import Usage
from app.realtime import server_events
from app.realtime.audio import RATE, AudioDecoder
from app.realtime.client_events import Append, Clear, Commit, Update, event_id_of, parse_event, parse_message
from app.realtime.config import ServerVad
from app.realtime.detection import FRAME_SAMPLES, SpeechStarted, SpeechStopped, UtteranceDetector
from app.realtime.outbox import Outbox
from app.realtime.transcribing import UtteranceTranscriber
from app.realtime.utterance import Utterance

if TYPE_CHECKING:
    from typing import Any

    from app.domain.events import EventSink
    from app.realtime.audio import Samples
    from app.realtime.client_events import ClientEvent
    from app.realtime.config import SessionConfig
    from app.realtime.transcribing import LiveModels
    from app.transcription.models import ModelRegistry, ModelState

logger = logging.getLogger(__name__)

#: The most audio that was said and is not transcribed yet: five minutes, 10 MB.
_MAX_WAITING_SECONDS: Final = 300
#: Messages in a row that are no events of this protocol.
_MAX_INVALID: Final = 20
#: An utterance of less than 100 ms can't be committed, as in OpenAI's API.
_MIN_COMMIT_SAMPLES: Final = RATE // 10
#: A large append is searched for speech in parts of this many bytes, a second of PCM.
_PART_BYTES: Final = 48_000
#: OpenAI's code, and type, for a quota.
_INSUFFICIENT_QUOTA: Final = "insufficient_quota"
#: The time for the last events to be sent.
_FLUSH_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Limits of one session in seconds. ``finish_seconds`` is the time to transcribe what was said before an end."""

    session_seconds: float
    idle_seconds: float
    finish_seconds: float = 30.0


class Channel(Protocol):
    """The connection to a client."""

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None after the last."""

    async def send(self, text: str) -> None:
        """Send a message. Do nothing if the client has disconnected."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection (RFC 6455, section 7.4)."""


class Account(Protocol):
    """The usage of the API key with which a session was opened."""

    def add(self, model: str, usage: Usage) -> None:
        """Count what was transcribed with a model."""

    def check(self) -> None:
        """Raise QuotaExceeded if the key has nothing left for today."""


#: How a session ends that the client did not end: the code of the close frame, the code of the error, its message.
_ENDS: Final = {
    SessionEnd.IDLE: (
        1008,
        "session_idle",
        "The session is closed, because nothing was sent for {idle:g} s (REALTIME_IDLE_SECONDS): connect again, and "
        "keep sending audio, silence included.",
    ),
    SessionEnd.EXPIRED: (
        1001,
        "session_expired",
        "The session has lasted {session:g} s, the most allowed (REALTIME_SESSION_SECONDS): connect again.",
    ),
    SessionEnd.INVALID: (
        1008,
        "too_many_invalid_events",
        f"The session is closed after {_MAX_INVALID} messages in a row that are not events of this protocol.",
    ),
    SessionEnd.TOO_FAST: (
        1008,
        "too_fast",
        f"The session is closed, because more than {_MAX_WAITING_SECONDS} s of audio wait for the model: send audio as "
        "it is spoken, or a file to /v1/audio/transcriptions. If you did, the server is too busy; retry later.",
    ),
    SessionEnd.SLOW_READER: (
        1008,
        "slow_reader",
        "The session is closed, because its events are not read: read them while you send audio.",
    ),
    SessionEnd.QUOTA: (
        1000,
        _INSUFFICIENT_QUOTA,
        "The session is closed, because its API key has used all of its audio for today: connect again after 00:00 "
        "UTC, or raise the quota in API_KEYS.",
    ),
    SessionEnd.DRAINED: (1001, "draining", "The server is shutting down: connect again in a moment."),
    SessionEnd.FAILED: (1011, "internal_error", "Internal error: see the server's log for its cause."),
}
#: The types of these errors, if they are no invalid requests.
_KINDS: Final = {
    SessionEnd.QUOTA: _INSUFFICIENT_QUOTA,
    SessionEnd.DRAINED: "server_error",
    SessionEnd.FAILED: "server_error",
}
#: Ends before which everything that was said is transcribed.
_FINISHING: Final = (
    SessionEnd.IDLE,
    SessionEnd.EXPIRED,
    SessionEnd.TOO_FAST,
    SessionEnd.QUOTA,
    SessionEnd.DRAINED,
)


class Session:
    """A session with the first configuration ``config``. Create it on a running event loop."""

    def __init__(
        self,
        channel: Channel,
        models: LiveModels,
        config: SessionConfig,
        *,
        account: Account,
        limits: SessionLimits,
        emit: EventSink,
    ) -> None:
        self.id = server_events.new_id("sess")
        self._channel = channel
        self._models = models
        self._config = config
        self._account = account
        self._limits = limits
        self._emit = emit
        self._expires_at = int(time.time() + limits.session_seconds)
        self._end: asyncio.Future[SessionEnd] = asyncio.get_running_loop().create_future()
        self._outbox = Outbox(channel.send, on_full=lambda: self.end(SessionEnd.SLOW_READER))
        self._invalid = 0
        self._transcriber = UtteranceTranscriber(models, send=self._outbox.put, count=self._count, emit=emit)
        self._speech = models.live_detector()
        self._decoder = AudioDecoder(config.format)
        self._detector = _utterance_detector(config, position=0)
        self._utterance: Utterance | None = None
        self._previous_item_id: str | None = None
        #: Audio that is not part of an utterance yet, which ends at the position ``_received``.
        self._recent: Samples = np.zeros(0, np.int16)
        self._received = self._searched = self._committed = self._counted = 0

    def end(self, reason: SessionEnd) -> None:
        """End the session, unless it is ending already."""
        if not self._end.done():
            self._end.set_result(reason)

    async def run(self) -> SessionEnd:
        """Serve the client until the session ends, and return the reason."""
        self._outbox.put(server_events.session_created(self._session_object(), self._warnings(self._config)))
        tasks = [
            asyncio.create_task(work, name=f"{name} of {self.id}")
            for name, work in (
                ("reader", self._read()),
                ("transcriber", self._transcriber.run()),
                ("writer", self._outbox.run()),
            )
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        expiry = asyncio.get_running_loop().call_later(self._limits.session_seconds, self.end, SessionEnd.EXPIRED)
        try:
            reason = await self._end
            tasks[0].cancel()
            if reason in _FINISHING:
                await self._finish()
            await self._close(reason)
            self._emit(SessionEnded(reason))
            return reason
        finally:
            expiry.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for utterance in self._transcriber.unfinished:
                self._count_shown(utterance)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            logger.error("The %s failed", task.get_name(), exc_info=exc)
            self.end(SessionEnd.FAILED)

    async def _finish(self) -> None:
        """Commit what was said and wait for its text, for a while."""
        if self._utterance is not None:
            self._move(self._received)
            self._commit()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.finish_seconds):
                await self._transcriber.wait_until_done()

    async def _close(self, reason: SessionEnd) -> None:
        """Send the last events, with the reason, and close the connection."""
        code, error_code, message = _ENDS.get(reason, (1000, "", ""))
        if reason is SessionEnd.SLOW_READER:
            self._outbox.clear()
        if message:
            kind = _KINDS.get(reason, "invalid_request_error")
            message = message.format(idle=self._limits.idle_seconds, session=self._limits.session_seconds)
            self._outbox.put(server_events.error(message, code=error_code, kind=kind))
        for last in (self._outbox.wait_until_empty(), self._channel.close(code, error_code)):
            with suppress(TimeoutError):
                await asyncio.wait_for(last, _FLUSH_SECONDS)

    def _count(self, utterance: Utterance, end: int) -> None:
        """Count the audio of an utterance up to ``end``, and the utterance as one request.

        Audio counts as soon as its text is final, so that nothing of it is lost if the process is killed later.
        """
        start = max(utterance.start, self._counted)
        if end <= start:
            return
        self._counted = end
        model, _ = self._models.model_registry.choose(utterance.options.model)
        self._account.add(model.name, Usage((end - start) / RATE, int(start == utterance.start)))
        try:
            self._account.check()
        except QuotaExceeded:
            self.end(SessionEnd.QUOTA)

    def _count_shown(self, utterance: Utterance) -> None:
        """Count an utterance that ends without a final text, if the client has received words of it."""
        if utterance.shown:
            self._count(utterance, utterance.end)

    def _warnings(self, config: SessionConfig) -> list[str]:
        """Return sentences about what a configuration asks for and does not get.

        Raises:
            InvalidRequest: its model is not served, or can't do this.
        """
        _, warnings = checked_model(self._models.model_registry, config)
        return [*warnings, *config.warnings]

    def _session_object(self) -> dict[str, Any]:
        return server_events.session_object(self._config, session_id=self.id, expires_at=self._expires_at)

    async def _read(self) -> None:
        """Process the client's messages until it leaves, or goes too far."""
        while True:
            try:
                message = await asyncio.wait_for(self._channel.receive(), self._limits.idle_seconds or None)
            except TimeoutError:
                self.end(SessionEnd.IDLE)
                return
            if message is None:
                self.end(SessionEnd.CLIENT_LEFT)
                return
            await self._process(message)
            if self._invalid >= _MAX_INVALID:
                self.end(SessionEnd.INVALID)
                return
            if self._transcriber.waiting_samples > _MAX_WAITING_SECONDS * RATE:
                self.end(SessionEnd.TOO_FAST)
                return

    async def _process(self, message: str | bytes) -> None:
        event_id: str | None = None
        try:
            parsed = parse_message(message)
            event_id = event_id_of(parsed)
            await self._handle(parse_event(parsed))
            self._invalid = 0
        except InvalidRequest as exc:
            self._invalid += 1
            code = exc.code or "invalid_value"
            self._outbox.put(server_events.error(str(exc), code=code, param=exc.param, event_id=event_id))

    async def _handle(self, event: ClientEvent) -> None:
        match event:
            case Append(audio):
                for start in range(0, len(audio), _PART_BYTES):
                    await self._hear(self._decoder.feed(audio[start : start + _PART_BYTES]))
            case Commit():
                self._commit_by_client()
            case Clear():
                self._clear()
            case Update(session):
                self._update(session)

    def _update(self, update: Any) -> None:
        before, config = self._config, self._config.updated(update)
        warnings = self._warnings(config)
        self._config = config
        if config.format is not before.format:
            self._decoder = AudioDecoder(config.format)
        if config.turn_detection != before.turn_detection:
            self._detector = _utterance_detector(config, position=self._searched)
        self._outbox.put(server_events.session_updated(self._session_object(), warnings))

    async def _hear(self, samples: Samples) -> None:
        """Search further audio for speech, and add it to the utterance that it belongs to."""
        self._received += len(samples)
        self._recent = np.concatenate([self._recent, samples])
        for probability in await self._speech.feed(samples):
            is_new = self._searched >= self._committed  # and not the rest of a word that was committed
            self._searched += FRAME_SAMPLES
            change = self._detector.add(probability if is_new else 0.0)
            if self._config.turn_detection is None:
                continue
            match change:
                case SpeechStarted(position):
                    self._start(position)
                case SpeechStopped(position):
                    self._stop(position)
        if self._config.turn_detection is None and self._utterance is None:
            self._open(self._committed)
        if self._utterance is not None:
            self._move(self._searched)
        else:
            self._recent = self._recent[-self._padding_samples :]

    @property
    def _padding_samples(self) -> int:
        """The audio to keep while nobody speaks: what an utterance will begin with, and frames that are not certain."""
        detection = self._config.turn_detection
        return 4 * FRAME_SAMPLES + (0 if detection is None else detection.prefix_padding_ms * RATE // 1000)

    def _start(self, position: int) -> None:
        """Begin an utterance whose speech begins at ``position``."""
        if self._utterance is not None:  # it began before turn detection was switched on
            return
        detection = self._config.turn_detection
        padding = 0 if detection is None else detection.prefix_padding_ms * RATE // 1000
        utterance = self._open(position - padding)
        self._outbox.put(server_events.speech_started(utterance.item_id, utterance.start))

    def _stop(self, position: int) -> None:
        """End the utterance after a silence that ends at ``position``."""
        if self._utterance is None:
            return
        self._outbox.put(server_events.speech_stopped(self._utterance.item_id, position))
        self._move(position)
        self._commit()

    def _open(self, start: int) -> Utterance:
        """Begin an utterance with the recent audio from ``start`` on, if there is that much."""
        first = self._received - len(self._recent)
        start = min(max(start, first), self._received)
        self._recent = self._recent[start - first :]
        self._utterance = Utterance(server_events.new_id("item"), self._config, start=start)
        self._transcriber.add(self._utterance)
        return self._utterance

    def _move(self, position: int) -> None:
        """Add the recent audio up to ``position`` to the utterance."""
        assert self._utterance is not None  # noqa: S101  # checked by every caller
        count = max(0, position - (self._received - len(self._recent)))
        if count:
            self._utterance.add(self._recent[:count], spoken_to=self._detector.last_speech)
            self._recent = self._recent[count:]

    def _commit(self) -> None:
        """Make the utterance an item."""
        assert self._utterance is not None  # noqa: S101  # checked by every caller
        utterance, self._utterance = self._utterance, None
        for event in server_events.committed(utterance.item_id, self._previous_item_id):
            self._outbox.put(event)
        self._previous_item_id = utterance.item_id
        self._committed = utterance.end
        utterance.finish()

    def _commit_by_client(self) -> None:
        milliseconds = server_events.milliseconds(self._received - self._committed)
        if self._received - self._committed < _MIN_COMMIT_SAMPLES:
            raise InvalidRequest(
                f"The input audio buffer must have at least 100 ms to be committed, and it has {milliseconds} ms: "
                "append audio first.",
                code="input_audio_buffer_commit_empty",
            )
        if self._utterance is None:
            self._open(self._committed)
        self._move(self._received)
        self._detector.reset()
        self._commit()
        self._committed = self._received

    def _clear(self) -> None:
        if self._utterance is not None:
            self._count_shown(self._utterance)
            self._utterance.discard()
            self._utterance = None
        self._recent = self._recent[:0]
        self._committed = self._received
        self._detector.reset()
        self._outbox.put(server_events.cleared())


def _utterance_detector(config: SessionConfig, *, position: int) -> UtteranceDetector:
    """Return the detector of a configuration; without turn detection, its changes are ignored."""
    detection = config.turn_detection or ServerVad()
    return UtteranceDetector(threshold=detection.threshold, silence_ms=detection.silence_duration_ms, position=position)


def checked_model(registry: ModelRegistry, config: SessionConfig) -> tuple[ModelState, tuple[str, ...]]:
    """Return the model of a configuration, and a warning if it is not the one with the requested name.

    Raises:
        InvalidRequest: the model is not served, or can't do what the configuration asks for.
    """
    options = config.options
    try:
        model, warnings = registry.choose(options.model)
        model.require(task=options.task, language=options.language, languages=options.languages)
    except InvalidRequest as exc:
        param = f"session.audio.input.transcription.{exc.param or 'model'}"
        raise type(exc)(str(exc), param=param, code=exc.code) from exc
    return model, warnings
