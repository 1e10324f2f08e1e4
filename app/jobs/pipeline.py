"""The way of a job to its result: download, transcribe, store. Its delivery comes after."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from app.domain.concurrency import shielded
from app.domain.errors import AudioLost, DiskFull, SpoolUnavailable, StorageUnavailable, TooManyStarts, UnknownJob
from app.domain.events import AudioDownloaded, AudioTranscribed, discard_event, timed_step
from app.domain.job import Phrase, Progress
from app.domain.log_context import CurrentJob, logging_for
from app.jobs import transitions
from app.jobs.fair_slots import FairSlotQueue
from app.jobs.store import FULL_DISK_SECONDS
from app.transcription.transcriber import FinishedWindow, Listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from app.delivery.download import AudioDownloader
    from app.domain.events import EventSink
    from app.domain.job import Job
    from app.domain.transcript import Transcript
    from app.domain.waveform import Waveform
    from app.jobs.audio import ReceivedAudio
    from app.jobs.estimate import Estimate
    from app.jobs.retention import Retention
    from app.jobs.service_clock import ServiceClock
    from app.jobs.spool import Spool
    from app.jobs.store import JobStore
    from app.jobs.subscriptions import SegmentSubscriptions
    from app.transcription.transcriber import Transcriber

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The number of downloads that run at once.
DOWNLOADS: Final = 8


class Pipeline:
    """Works on jobs by their ids alone: everything else is in the store and the spool.

    No step is done twice: after a restart a job continues where the store last saw it.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        spool: Spool,
        transcriber: Transcriber,
        downloader: AudioDownloader,
        estimate: Estimate,
        segments: SegmentSubscriptions,
        retention: Retention,
        service_clock: ServiceClock,
        emit: EventSink = discard_event,
    ) -> None:
        self._store = store
        self._spool = spool
        self._transcriber = transcriber
        self._downloader = downloader
        self._estimate = estimate
        self._segments = segments
        self._retention = retention
        self._service_clock = service_clock
        self._emit = emit
        self._downloads = FairSlotQueue(DOWNLOADS)
        self._suspects = asyncio.Lock()

    async def process(self, job_id: str) -> None:
        """Take a job from its acceptance to its result, and to its end if nothing is to be delivered.

        Raises:
            Exception: anything that went wrong; the supervisor fails the job with it.
        """
        await self.download(job_id)
        job = self._store.get(job_id).job
        if not job.has_result:
            with nullcontext() if job.synchronous else self._segments.keeping(job_id):
                await self._store_result(job, await self._with_space(job, self._transcribe, job_id))
        await shielded(asyncio.to_thread(self._spool.discard_audio, job_id, keep_recording=job.keep_audio))

    async def download(self, job_id: str) -> None:
        """Download the audio of a job that comes by URL, unless that is done.

        Raises:
            Exception: anything that went wrong.
        """
        job = self._store.get(job_id).job
        if job.source_url and not job.has_result:
            await self._with_space(job, self._download, job, job.source_url)

    async def commit_result(
        self, job_id: str, transcript: Transcript, *, processing_time: float, result_name: str = ""
    ) -> None:
        """Record that the transcript of a job is in the spool, or discard it if another worker's came first.

        ``processing_time`` is in seconds.
        """
        live = await self._store.commit_patiently(
            job_id,
            transitions.result_stored,
            transcript,
            processing_time=processing_time,
            now=self._service_clock.now(),
            retention=self._retention,
            result_name=result_name,
        )
        if result_name and live.job.result_name != result_name:
            logger.info("Job %s: another worker's result came first", job_id)
            await shielded(asyncio.to_thread(self._spool.discard_result, result_name))

    async def _with_space(self, job: Job, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of ``step``, which is repeated while nothing can be stored, unless a client is waiting.

        That is while the disk is full or the spool is away.
        """
        while True:
            try:
                return await step(*args, **kwargs)
            except DiskFull:
                if job.synchronous:
                    raise
                logger.warning("⚠️ Job %s: the disk is full; waiting for space", job.id)
            except SpoolUnavailable:
                if job.synchronous:
                    raise
                logger.warning("⚠️ Job %s: waiting for the object store", job.id)
            self._show(job.id, Phrase.WAITING)
            await asyncio.sleep(FULL_DISK_SECONDS)

    async def _download(self, job: Job, url: str) -> None:
        audio: ReceivedAudio | None = None
        if not await asyncio.to_thread(self._spool.has_audio, job.id):
            async with self._downloads.slot(job.owner):
                audio = await self._fetch(job, url)
        await self._store.commit_patiently(job.id, transitions.audio_downloaded, audio=audio)
        self._show(job.id, Phrase.WAITING)

    async def _fetch(self, job: Job, url: str) -> ReceivedAudio | None:
        logger.info("📥 Job %s: Downloading audio from pre-signed URL...", job.id)
        self._show(job.id, Phrase.DOWNLOADING)
        try:
            with timed_step(self._emit, job.id, "download"):
                size = await self._downloader.fetch(url, lambda: self._spool.create_audio(job.id))
        except (DiskFull, SpoolUnavailable):
            # Two incomplete downloads might otherwise wait for each other's space.
            await shielded(asyncio.to_thread(self._spool.discard_partial_audio, job.id))
            raise
        self._emit(AudioDownloaded(size))
        return await shielded(asyncio.to_thread(self._spool.complete_audio, job.id, durably=not job.synchronous))

    async def _transcribe(self, job_id: str) -> _Transcribed:
        job = self._store.get(job_id).job
        if job.is_deadly:
            raise TooManyStarts(
                f"The service died all {job.starts} times that it worked on this file, so it is not tried again: "
                "convert the file, or ask the server's operator to look into its log."
            )
        self._segments.restart(job_id)
        listener = _ProgressListener(job, self._store, self._estimate, self._segments)
        async with self._alone_if_suspect(job):
            try:
                transcript = await self._run_transcriber(job, listener)
            except (DiskFull, SpoolUnavailable, asyncio.CancelledError):
                await self._withdraw_start(job_id)
                raise
        return _Transcribed(transcript, listener.seconds_on_model, listener.waveform if job.keep_audio else None)

    async def _run_transcriber(self, job: Job, listener: Listener) -> Transcript:
        with ExitStack() as work:
            work.enter_context(self._estimate.model.at_work())
            if job.options.tells_voices_apart:
                work.enter_context(self._estimate.voices.at_work())
            work.enter_context(timed_step(self._emit, job.id, "transcribe"))
            async with self._spool.audio(job.id) as path:
                references = await asyncio.to_thread(self._references, job) if job.options.tells_voices_apart else ()
                return await self._transcriber.transcribe(
                    path, job.options, listener=listener, synchronous=job.synchronous, references=references
                )

    def _references(self, job: Job) -> tuple[Path, ...]:
        """Return the references of the job's known speakers. Blocks."""
        references = self._spool.references(job.id)
        if len(references) < len(job.options.known_speakers):
            raise AudioLost("A reference of this job is no longer in DATA_DIR: submit it again.")
        return references

    async def _withdraw_start(self, job_id: str) -> None:
        with suppress(DiskFull, StorageUnavailable, UnknownJob):  # then the start counts
            await self._store.commit(job_id, transitions.start_withdrawn, node=self._store.node)

    @asynccontextmanager
    async def _alone_if_suspect(self, job: Job) -> AsyncIterator[None]:
        """Run suspects one at a time: one that kills the process takes no other with it."""
        if not job.is_suspect:
            yield
            return
        async with self._suspects:
            yield

    async def _store_result(self, job: Job, done: _Transcribed) -> None:
        self._estimate.finished(done.seconds, done.transcript.duration)
        self._emit(AudioTranscribed(job.id, done.transcript.duration, done.seconds))
        name = await self._with_space(job, self._write_result, job, done)
        await self.commit_result(job.id, done.transcript, processing_time=done.seconds, result_name=name)

    async def _write_result(self, job: Job, done: _Transcribed) -> str:
        return await shielded(
            asyncio.to_thread(
                self._spool.store_result,
                job.id,
                done.transcript,
                processing_time=done.seconds,
                waveform=done.waveform,
                durably=not job.synchronous,
            )
        )

    def _show(self, job_id: str, phrase: Phrase) -> None:
        self._store.report_progress(job_id, Progress.showing, phrase)


@dataclass(frozen=True, slots=True)
class _Transcribed:
    """A transcript, the seconds it took since the job's first slot, and the waveform of a recording that is kept."""

    transcript: Transcript
    seconds: float
    waveform: Waveform | None


class _ProgressListener(Listener):
    """Reports the progress of a transcription to the store, the estimate and subscribers."""

    def __init__(self, job: Job, store: JobStore, estimate: Estimate, segments: SegmentSubscriptions) -> None:
        self._job_id = job.id
        self._tells_voices_apart = job.options.tells_voices_apart
        self._current = CurrentJob(job.id, job.accepted_at)
        self._store = store
        self._estimate = estimate
        self._segments = segments
        self._seconds_done = self._seconds_heard = 0.0
        self._duration: float | None = None
        self._has_waited = False
        self._first_slot: float | None = None
        self.waveform: Waveform | None = None

    @property
    def seconds_on_model(self) -> float:
        """The seconds since the job's first slot; 0 if it never had one."""
        return 0.0 if self._first_slot is None else time.monotonic() - self._first_slot

    async def on_start(self) -> None:
        # Before the work begins: if it kills the process, the next one knows how often that has happened.
        await self._store.commit_patiently(self._job_id, transitions.work_started, node=self._store.node)
        if self._tells_voices_apart:
            self._store.report_progress(self._job_id, Progress.heard, percent=0.0)

    def on_decoded(self, duration: float) -> None:
        self._duration = duration
        self._store.report_progress(self._job_id, Progress.decoded, duration)

    def on_waveform(self, waveform: Waveform) -> None:
        self.waveform = waveform

    def on_waiting(self) -> None:
        level = logging.DEBUG if self._has_waited else logging.INFO  # a long job waits many times
        self._has_waited = True
        logger.log(level, "⏳ Job %s waiting for GPU availability...", self._job_id)
        self._store.report_progress(self._job_id, Progress.showing, Phrase.WAITING)

    def on_slot_granted(self) -> None:
        level = logging.INFO if self._first_slot is None else logging.DEBUG
        if self._first_slot is None:
            self._first_slot = time.monotonic()
        with logging_for(self._current):  # the model's task calls this
            logger.log(level, "🎬 Job %s acquired GPU slot, starting processing...", self._job_id)
            logger.log(level, "🎙️ Job %s: Starting transcription...", self._job_id)
        self._store.report_progress(self._job_id, Progress.on_model, at=time.time())

    def on_window(self, window: FinishedWindow) -> None:
        if window.segments:
            self._segments.publish(self._job_id, window.segments)
        self._estimate.model.done(max(0.0, window.seconds_done - self._seconds_done))
        self._seconds_done = window.seconds_done
        percent = self._percent(window.seconds_done)
        self._store.report_progress(self._job_id, Progress.transcribed, language=window.language, percent=percent)

    def on_heard(self, seconds_done: float) -> None:
        self._estimate.voices.done(max(0.0, seconds_done - self._seconds_heard))
        self._seconds_heard = seconds_done
        self._store.report_progress(self._job_id, Progress.heard, percent=self._percent(seconds_done) or 0.0)

    def on_text_done(self) -> None:
        logger.info("🗣️ Job %s: Telling speakers apart...", self._job_id)
        self._store.report_progress(self._job_id, Progress.showing, Phrase.TELLING_SPEAKERS_APART)

    def _percent(self, seconds_done: float) -> float | None:
        """Return the share that is done, or None while the audio is still being decoded."""
        return None if self._duration is None else round(min(100.0, 100 * seconds_done / (self._duration or 1.0)), 1)
