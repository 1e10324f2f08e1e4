"""The steps at which a test makes the service kill itself.

A step is a call of a method of the service, which is wrapped before the service starts.
"""

from __future__ import annotations

import inspect
import os
import signal
import time
from dataclasses import dataclass
from enum import Enum, auto
from functools import wraps
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: At the step ``FATAL_FILE``, files submitted with this beam size kill the process.
FATAL_BEAMS: Final = 7
FATAL_FILE: Final = "the model decodes a fatal file"
#: Longer than any test.
_HELD_SECONDS: Final = 1000


class When(Enum):
    BEFORE = auto()
    AFTER = auto()


BEFORE, AFTER = When.BEFORE, When.AFTER


@dataclass(frozen=True, slots=True)
class Step:
    """The moment before or after the ``nth`` call of the function ``name`` of ``owner``.

    ``owner`` is a module or ``module:Class``. With ``about``, only calls whose first argument is a path of that name
    count. With ``held``, the model never finishes decoding, so that the job remains in processing.
    """

    owner: str
    name: str
    when: When
    nth: int = 1
    about: str = ""
    held: bool = False

    def counts(self, arguments: tuple[Any, ...]) -> bool:
        return not self.about or arguments[0].name == self.about


class FatalFile(Step):
    """The moment before the model decodes a window of a fatal file."""

    def counts(self, arguments: tuple[Any, ...]) -> bool:
        _model, windows = arguments
        return any(window.beam_size == FATAL_BEAMS for window in windows)


_SPOOL: Final = "app.jobs.spool:Spool"
_JOURNAL: Final = "app.jobs.journal:Journal"
_STORE: Final = "app.jobs.store:JobStore"
_RUNNER: Final = "app.jobs.runner:Runner"
_INTAKE: Final = "app.jobs.intake:Intake"
_EDITS: Final = "app.jobs.edits:Edits"
_PIPELINE: Final = "app.jobs.pipeline:Pipeline"
_RECOVERY: Final = "app.jobs.recovery:Recovery"
_ROUNDS: Final = "app.jobs.deliveries:DeliveryRounds"
_UPLOADER: Final = "app.delivery.upload:PresignedUploader"
_SENDER: Final = "app.delivery.webhooks:WebhookSender"
_DOWNLOADER: Final = "app.delivery.download:AudioDownloader"
_LAUNCHER: Final = "app.transcription.decoder_launcher:DecoderLauncher"
_DECODER: Final = "app.transcription.decoding:Decoder"
_MODEL: Final = "app.transcription.whisper:WhisperModel"

STEPS: Final[dict[str, Step]] = {
    # A request is accepted.
    "the first byte arrives": Step(_SPOOL, "create_audio", AFTER),
    "the last byte has arrived": Step(_SPOOL, "complete_audio", BEFORE),
    "the audio is synced": Step("pathlib:Path", "rename", BEFORE, about="audio.partial"),
    "the audio has its name": Step("pathlib:Path", "rename", AFTER, about="audio.partial"),
    "the audio's folders are synced": Step(_SPOOL, "complete_audio", AFTER),
    "before the job is committed": Step(_JOURNAL, "_commit", BEFORE),
    "the job is committed": Step(_JOURNAL, "write", AFTER),
    "the job is registered": Step("app.jobs.registry:Registry", "add", AFTER),
    "before the client is answered": Step(_INTAKE, "submit", AFTER),
    # Its audio is fetched.
    "before the download begins": Step(_DOWNLOADER, "fetch", BEFORE),
    "the download has begun": Step("app.jobs.spool:AudioFile", "write", AFTER),
    "the download has ended": Step(_DOWNLOADER, "fetch", AFTER),
    "the download has its name": Step(_SPOOL, "complete_audio", AFTER),
    "the download is committed": Step(_PIPELINE, "_download", AFTER),
    # It is transcribed. The first decoder process is for the check at the start.
    "before the start is committed": Step("app.jobs.pipeline:_ProgressListener", "on_start", BEFORE),
    "the start is committed": Step("app.jobs.pipeline:_ProgressListener", "on_start", AFTER),
    "before the decoder starts": Step(_LAUNCHER, "launch", BEFORE, nth=2),
    "the decoder has started": Step(_LAUNCHER, "launch", AFTER, nth=2),
    "the decoder has ended": Step(_DECODER, "decode", AFTER),
    "before the encoder starts": Step(_MODEL, "encode", BEFORE),
    "the encoder has ended": Step(_MODEL, "encode", AFTER),
    "before the model decodes": Step(_MODEL, "decode", BEFORE),
    "the model has decoded": Step(_MODEL, "decode", AFTER),
    "the transcript is assembled": Step("app.transcription.segments:Assembly", "take_all", AFTER),
    FATAL_FILE: FatalFile(_MODEL, "decode", BEFORE),
    # Its result is stored.
    "before the result is stored": Step(_SPOOL, "store_result", BEFORE),
    "the result is written": Step("pathlib:Path", "replace", BEFORE, about="result.partial"),
    "the result has its name": Step("pathlib:Path", "replace", AFTER, about="result.partial"),
    "the result is stored": Step(_SPOOL, "store_result", AFTER),
    "the result is committed": Step(_PIPELINE, "_store_result", AFTER),
    "before the audio is removed": Step(_SPOOL, "discard_audio", BEFORE),
    "the audio is removed": Step(_SPOOL, "discard_audio", AFTER),
    # It is delivered.
    "before the PUT begins": Step(_UPLOADER, "put", BEFORE),
    "the PUT has been answered": Step(_UPLOADER, "put", AFTER),
    "before the second PUT begins": Step(_UPLOADER, "put", BEFORE, nth=2),
    "the second PUT has been answered": Step(_UPLOADER, "put", AFTER, nth=2),
    "the delivery is committed": Step(_ROUNDS, "run", AFTER),
    "before the webhook is sent": Step(_SENDER, "post", BEFORE),
    "the webhook has answered": Step(_SENDER, "post", AFTER),
    "the end of the webhook is committed": Step(_ROUNDS, "run", AFTER, nth=2),
    "before the log is emptied of URLs": Step(_JOURNAL, "_truncate_log", BEFORE),
    "the log is emptied of URLs": Step(_JOURNAL, "_truncate_log", AFTER),
    # It fails.
    "before the failure is committed": Step(_RUNNER, "_fail", BEFORE),
    "the failure is committed": Step(_RUNNER, "_fail", AFTER),
    "before the failure is reported": Step(_UPLOADER, "put", BEFORE),
    "the report of the failure has been answered": Step(_UPLOADER, "put", AFTER),
    # It is cancelled, forgotten, delivered again, edited; the service is stopped.
    "before the cancellation is committed": Step(_INTAKE, "cancel", BEFORE, held=True),
    "the cancellation is committed": Step(_RUNNER, "stop", BEFORE, held=True),
    "the cancelled job has stopped": Step(_RUNNER, "stop", AFTER, held=True),
    "the cancelled job's audio is removed": Step(_RUNNER, "discard_files", AFTER, held=True),
    "before the job is forgotten": Step(_STORE, "forget", BEFORE),
    "the job is forgotten": Step(_STORE, "forget", AFTER),
    "the forgotten job's files are removed": Step(_SPOOL, "discard", AFTER),
    "before the redelivery is committed": Step(_INTAKE, "redeliver", BEFORE),
    "the redelivery is committed": Step(_INTAKE, "redeliver", AFTER),
    "the corrections are written": Step("pathlib:Path", "replace", BEFORE, about="corrections.partial"),
    "the corrections have their name": Step("pathlib:Path", "replace", AFTER, about="corrections.partial"),
    "before the edit is committed": Step(_EDITS, "_write", AFTER),
    "the edit is committed": Step(_EDITS, "_replace", AFTER),
    "before the start is withdrawn": Step(_PIPELINE, "_withdraw_start", BEFORE, held=True),
    "the start is withdrawn": Step(_PIPELINE, "_withdraw_start", AFTER, held=True),
    "before the journal is closed": Step(_JOURNAL, "close", BEFORE, held=True),
    "the journal is closed": Step(_JOURNAL, "close", AFTER, held=True),
    # The next process starts.
    "before the journal is made": Step(_JOURNAL, "_prepare", BEFORE),
    "the journal is made": Step(_JOURNAL, "_prepare", AFTER),
    "the journal is read": Step(_JOURNAL, "open", AFTER),
    "before the spool is swept": Step(_SPOOL, "sweep", BEFORE),
    "the spool is swept": Step(_SPOOL, "sweep", AFTER),
    "before a recovered result is committed": Step(_STORE, "commit_patiently", BEFORE),
    "a recovered result is committed": Step(_STORE, "commit_patiently", AFTER),
    "everything is restored": Step(_RECOVERY, "restore", AFTER),
    "before jobs are resumed": Step(_RECOVERY, "resume", BEFORE),
    "jobs are resumed": Step(_RECOVERY, "resume", AFTER),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install(step: Step, act: Callable[[], None] = die) -> None:
    """Make this process call ``act`` at ``step``, which kills it by default."""
    if step.held:
        owner_of(_MODEL).decode = _decode_endlessly
    owner = owner_of(step.owner)
    original = getattr(owner, step.name)
    calls = count(1)

    def is_reached(arguments: tuple[Any, ...], when: When) -> bool:
        return when is step.when and step.counts(arguments) and next(calls) == step.nth

    @wraps(original)
    async def awaited(*arguments: Any, **options: Any) -> Any:
        if is_reached(arguments, BEFORE):
            act()
        result = await original(*arguments, **options)
        if is_reached(arguments, AFTER):
            act()
        return result

    @wraps(original)
    def called(*arguments: Any, **options: Any) -> Any:
        if is_reached(arguments, BEFORE):
            act()
        result = original(*arguments, **options)
        if is_reached(arguments, AFTER):
            act()
        return result

    setattr(owner, step.name, awaited if inspect.iscoroutinefunction(original) else called)


def owner_of(path: str) -> Any:
    """Return the module or the class that ``path`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


def _decode_endlessly(_model: Any, _windows: Any) -> None:
    time.sleep(_HELD_SECONDS)
