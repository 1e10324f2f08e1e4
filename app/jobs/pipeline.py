"""What becomes of a job until it has a result: fetch → transcribe → store. Its delivery comes after."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from app.domain.concurrency import to_its_end
from app.domain.errors import AudioLost, DiskFull, TooManyStarts, UnknownJob
from app.domain.events import AudioDownloaded, AudioTranscribed, discard_event, timed_step
from app.domain.job import Delivery, Job, JobStatus, Progress
from app.domain.log_context import CurrentJob, speaking_of
from app.jobs.fair_slots import FairSlotQueue
from app.jobs.store import FULL_DISK_SECONDS
from app.transcription.transcriber import FinishedWindow, Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from app.delivery.download import AudioDownloader
    from app.domain.events import EventSink
    from app.domain.transcript import Transcript
    from app.jobs.estimate import Estimate
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import Ledger, Registry
    from app.jobs.subscriptions import Watchers
    from app.jobs.transitions import Endings
    from app.transcription.transcriber import Transcriber

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: So many downloads run at once.
DOWNLOADS: Final = 8
#: How often work on a file may begin whose end the process did not live to see.
MAX_STARTS: Final = 3


class Pipeline:
    """Works on jobs by their ids alone: all that it needs to know is in the registry and the spool.

    What a job has behind it is not done again: after a restart it goes on where the ledger last saw it.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        ledger: Ledger,
        spool: Spool,
        transcriber: Transcriber,
        downloader: AudioDownloader,
        estimate: Estimate,
        watchers: Watchers,
        endings: Endings,
        service_clock: ServiceClock,
        emit: EventSink = discard_event,
    ) -> None:
        self._emit = emit
        self._registry = registry
        self._ledger = ledger
        self._watchers = watchers
        self._spool = spool
        self._transcriber = transcriber
        self._downloader = downloader
        self._estimate = estimate
        self._endings = endings
        self._service_clock = service_clock
        self._downloads = FairSlotQueue(DOWNLOADS)
        self._suspects = asyncio.Lock()

    async def process(self, job_id: str) -> None:
        """Takes a job from its acceptance to its result, and to its success where nothing is to be delivered.

        Raises:
            Exception: whatever went wrong, for the supervisor to make a failure of.
        """
        job = self._registry.get(job_id)
        if not job.has_result:
            if job.source_url:
                await self._with_space(job, lambda: self._fetch(job_id, job.source_url or ""))
            await self._store(job, await self._with_space(job, lambda: self._transcribe(job_id)))
        await to_its_end(self._spool.discard_audio, job_id)

    async def _with_space(self, job: Job, step: Callable[[], Awaitable[T]]) -> T:
        """What ``step`` gives. On a full disk it is tried again and again, as long as no client waits for the job."""
        while True:
            try:
                return await step()
            except DiskFull:
                if job.synchronous:
                    raise
                logger.warning("⚠️ Job %s: the disk is full; waiting for space", job.id)
            self._change(job.id, progress=Progress.WAITING)
            await asyncio.sleep(FULL_DISK_SECONDS)

    async def _fetch(self, job_id: str, url: str) -> None:
        if not await asyncio.to_thread(self._spool.has_audio, job_id):
            async with self._downloads.place(self._registry.get(job_id).owner):
                logger.info("📥 Job %s: Downloading audio from pre-signed URL...", job_id)
                self._change(job_id, progress=Progress.DOWNLOADING)
                try:
                    with timed_step(self._emit, job_id, "download"):
                        size = await self._downloader.fetch(url, lambda: self._spool.create_audio(job_id))
                    self._emit(AudioDownloaded(size))
                except DiskFull:
                    await to_its_end(self._spool.discard_audio, job_id)  # or two halves may keep each other's room
                    raise
                durably = not self._registry.get(job_id).synchronous
                await to_its_end(self._spool.keep_audio, job_id, durably=durably)
        await self._ledger.commit_patiently(job_id, _while_active(source_url="", progress=Progress.WAITING))

    async def _transcribe(self, job_id: str) -> _Transcribed:
        job = self._registry.get(job_id)
        if job.attempts >= MAX_STARTS:
            raise TooManyStarts(
                f"The service died each of the {job.attempts} times that it worked on this file, which is not tried "
                "again: convert the file, or have the server's operator look into its log."
            )
        listener = _Progress(job, self._registry, self._ledger, self._estimate, self._watchers)
        async with self._alone_if_suspect(job):
            try:
                with self._estimate.at_work(), timed_step(self._emit, job_id, "transcribe"):
                    transcript = await self._transcriber.transcribe(
                        self._spool.audio(job.id), job.options, listener=listener, synchronous=job.synchronous
                    )
            except (DiskFull, asyncio.CancelledError):
                await self._take_back(job)
                raise
            except FileNotFoundError as exc:
                raise AudioLost("The audio of this job is not in DATA_DIR any more: submit it again.") from exc
        return _Transcribed(transcript, listener.seconds_on_model)

    async def _take_back(self, before: Job) -> None:
        """The work was stopped for no fault of the file's: where it had begun, that does not count."""
        with suppress(DiskFull, UnknownJob):  # then it counts
            now = self._registry.get(before.id)
            if now.is_active and now.attempts > before.attempts:
                await self._ledger.commit(before.id, _while_active(attempts=before.attempts))

    @asynccontextmanager
    async def _alone_if_suspect(self, job: Job) -> AsyncIterator[None]:
        """One at a time of those whose next start is their last: what kills the process takes no other one along."""
        if job.attempts < MAX_STARTS - 1:
            yield
            return
        async with self._suspects:
            yield

    async def _store(self, job: Job, done: _Transcribed) -> None:
        self._estimate.finished(done.seconds, done.transcript.duration)
        self._emit(AudioTranscribed(job.id, done.transcript.duration, done.seconds))
        await self._with_space(
            job,
            lambda: to_its_end(
                self._spool.store_result,
                job.id,
                done.transcript,
                processing_time=done.seconds,
                durably=not job.synchronous,
            ),
        )
        await self._ledger.commit_patiently(job.id, self.finished(done.transcript))

    def finished(self, transcript: Transcript) -> Callable[[Job], Job]:
        """What it makes of a job that its transcript is stored."""
        at, service_clock, completed = time.time(), self._service_clock.seconds, self._endings.completed()

        def change(job: Job) -> Job:
            if not job.is_active:
                return job
            if job.status is JobStatus.QUEUED:  # nobody speaks in it: it never needed the model
                job = job.moved_to(JobStatus.PROCESSING, at=at)
            job = job.changed(
                has_result=True,
                language=transcript.language,
                audio_duration=transcript.duration,
                progress_percent=100.0,
            )
            if job.upload is None:
                return completed(job)
            due = Delivery(since=service_clock, next_round=service_clock, expires_at=job.upload.expires_at)
            return job.changed(progress=Progress.UPLOADING, delivery=due)

        return change

    def _change(self, job_id: str, **changes: Any) -> Job:
        return self._registry.update(job_id, _while_active(**changes))


def _while_active(**changes: Any) -> Callable[[Job], Job]:
    """The changes, but for a job that was cancelled meanwhile."""
    return lambda job: job.changed(**changes) if job.is_active else job


class _Transcribed:
    """A transcript, and how many seconds it took since the job's first slot."""

    def __init__(self, transcript: Transcript, seconds: float) -> None:
        self.transcript = transcript
        self.seconds = seconds


class _Progress(Listener):
    """Writes down in the registry how the transcription goes; what comes after the job's end is not heard."""

    def __init__(self, job: Job, registry: Registry, ledger: Ledger, estimate: Estimate, watchers: Watchers) -> None:
        self.job_id = job.id
        self._current = CurrentJob(job.id, job.accepted_at)
        self._watchers = watchers
        self._registry = registry
        self._ledger = ledger
        self._estimate = estimate
        self._seconds_done = 0.0
        self._has_waited = False
        self._first_slot: float | None = None

    @property
    def seconds_on_model(self) -> float:
        """Since the job's first slot; 0 if it never had one."""
        return 0.0 if self._first_slot is None else time.monotonic() - self._first_slot

    async def on_start(self) -> None:
        # Before the work begins: if it kills the process, the next one knows how often that has happened.
        await self._ledger.commit_patiently(
            self.job_id, lambda job: job.changed(attempts=job.attempts + 1) if job.is_active else job
        )

    def on_decoded(self, duration: float) -> None:
        self._change(lambda job: job.changed(audio_duration=duration))

    def on_waiting(self) -> None:
        level = logging.DEBUG if self._has_waited else logging.INFO  # a long job waits many times
        self._has_waited = True
        logger.log(level, "⏳ Job %s waiting for GPU availability...", self.job_id)
        self._change(lambda job: job.changed(progress=Progress.WAITING))

    def on_slot_granted(self) -> None:
        level = logging.INFO if self._first_slot is None else logging.DEBUG
        if self._first_slot is None:
            self._first_slot = time.monotonic()
        with speaking_of(self._current):  # this is called by the model's task
            logger.log(level, "🎬 Job %s acquired GPU slot, starting processing...", self.job_id)
            logger.log(level, "🎙️ Job %s: Starting transcription...", self.job_id)
        self._change(_on_the_model)

    def on_window(self, window: FinishedWindow) -> None:
        if window.segments:
            self._watchers.tell(self.job_id, window.segments)
        self._estimate.transcribed(max(0.0, window.seconds_done - self._seconds_done))
        self._seconds_done = window.seconds_done
        if window.duration is None:  # it is still being decoded
            self._change(lambda job: job.changed(language=window.language))
            return
        percent = round(min(100.0, 100 * window.seconds_done / window.duration), 1)
        self._change(lambda job: job.changed(progress_percent=percent, language=window.language))

    def _change(self, change: Callable[[Job], Job]) -> None:
        with suppress(UnknownJob):  # it was forgotten while its last window was on the model
            self._registry.update(self.job_id, lambda job: change(job) if job.is_active else job)


def _on_the_model(job: Job) -> Job:
    if job.status is JobStatus.QUEUED:
        return job.moved_to(JobStatus.PROCESSING, at=time.time(), progress=Progress.TRANSCRIBING)
    return job.changed(progress=Progress.TRANSCRIBING)
