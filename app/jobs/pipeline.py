"""What becomes of a job: fetch → transcribe → store the result → deliver."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from app.domain.errors import DeliveryFailed, UnknownJob
from app.domain.formats import MEDIA_TYPES, to_json
from app.domain.job import Delivery, DeliveryStatus, Job, JobStatus, Progress
from app.jobs.document import failure_document, stored_body
from app.jobs.spool import full_disk_told
from app.jobs.threads import to_its_end
from app.transcription.transcriber import FinishedWindow, Listener, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.delivery.presigned import PresignedUploader
    from app.jobs.download import AudioDownloader
    from app.jobs.estimate import Estimate
    from app.jobs.registry import Registry
    from app.jobs.spool import Spool
    from app.jobs.watchers import Watchers
    from app.transcription.transcriber import Transcriber

logger = logging.getLogger(__name__)

#: So many downloads run at once.
DOWNLOADS: Final = 8


class Pipeline:
    """Works on jobs by their ids alone: all that it needs to know is in the registry and the spool."""

    def __init__(
        self,
        *,
        registry: Registry,
        spool: Spool,
        transcriber: Transcriber,
        downloader: AudioDownloader,
        uploader: PresignedUploader,
        estimate: Estimate,
        watchers: Watchers,
    ) -> None:
        self._registry = registry
        self._watchers = watchers
        self._spool = spool
        self._transcriber = transcriber
        self._downloader = downloader
        self._uploader = uploader
        self._estimate = estimate
        self._downloads = asyncio.Semaphore(DOWNLOADS)

    async def process(self, job_id: str) -> None:
        """Takes a job from its acceptance to its success.

        Raises:
            Exception: whatever went wrong, for the supervisor to make a failure of.
        """
        job = self._registry.get(job_id)
        if job.source_url is not None:
            await self._fetch(job_id, job.source_url)
        await self._transcribe(job)
        await to_its_end(self._spool.discard_audio, job_id)
        if job.upload is not None:
            await self._deliver(job_id)
        self._registry.update(job_id, lambda job: job.moved_to(JobStatus.COMPLETED, at=time.time()))

    async def report_failure(self, job_id: str) -> None:
        """PUTs the failure document of a failed job where its result would have gone, if it has such a place."""
        job = self._registry.get(job_id)
        if job.upload is None:
            return
        document = failure_document(job, processing_time=_seconds_since_start(job))
        await self._put(job, to_json(document), media_type="application/json")

    async def _fetch(self, job_id: str, url: str) -> None:
        async with self._downloads:
            logger.info("📥 Job %s: Downloading audio from pre-signed URL...", job_id)
            self._change(job_id, progress=Progress.DOWNLOADING)
            await to_its_end(self._spool.make_room, job_id)
            with full_disk_told():
                await self._downloader.fetch(url, self._spool.audio(job_id))
        self._change(job_id, progress=Progress.WAITING)

    async def _transcribe(self, job: Job) -> None:
        with self._estimate.at_work():
            transcript = await self._transcriber.transcribe(
                self._spool.audio(job.id),
                job.options,
                listener=_Progress(job.id, self._registry, self._estimate, self._watchers),
                awaited=job.synchronous,
            )
        if self._registry.get(job.id).status is JobStatus.QUEUED:  # nobody speaks in it: it never needed the model
            self._registry.update(job.id, _on_the_model)
        seconds = _seconds_since_start(self._registry.get(job.id))
        self._estimate.finished(seconds, transcript.duration)
        await to_its_end(self._spool.store_result, job.id, transcript, processing_time=seconds)
        self._change(
            job.id,
            has_result=True,
            language=transcript.language,
            audio_duration=transcript.duration,
            progress_percent=100.0,
        )

    async def _deliver(self, job_id: str) -> None:
        job = self._change(job_id, progress=Progress.UPLOADING)
        logger.info("📤 Job %s: Uploading results to user URL...", job_id)
        assert job.upload is not None  # noqa: S101  # the caller has looked
        result = await asyncio.to_thread(stored_body, self._spool, job, job.upload.rendering)
        await self._put(job, result, media_type=MEDIA_TYPES[job.upload.rendering.format])

    async def _put(self, job: Job, content: bytes, *, media_type: str) -> None:
        assert job.upload is not None  # noqa: S101  # only such jobs are delivered
        try:
            await self._uploader.put(
                job.upload.url,
                content,
                headers=dict(job.upload.headers),
                media_type=media_type,
                on_attempt=self._attempt_noted(job.id),
            )
        except DeliveryFailed as exc:
            self._change_delivery(job.id, status=DeliveryStatus.FAILED, last_error=str(exc))
            raise
        self._change_delivery(job.id, status=DeliveryStatus.DELIVERED, last_error=None)

    def _attempt_noted(self, job_id: str) -> Callable[[int, str | None], None]:
        def noted(attempt: int, error: str | None) -> None:
            self._change_delivery(job_id, attempts=attempt, last_error=error)

        return noted

    def _change_delivery(self, job_id: str, **changes: Any) -> None:
        self._registry.update(job_id, lambda job: job.changed(delivery=replace(job.delivery or Delivery(), **changes)))

    def _change(self, job_id: str, **changes: Any) -> Job:
        return self._registry.update(job_id, lambda job: job.changed(**changes))


class _Progress(Listener):
    """Writes down in the registry how the transcription goes; what comes after the job's end is not heard."""

    def __init__(self, job_id: str, registry: Registry, estimate: Estimate, watchers: Watchers) -> None:
        self._id = job_id
        self._watchers = watchers
        self._registry = registry
        self._estimate = estimate
        self._seconds_done = 0.0
        self._heard: set[Turn] = set()

    def on_decoded(self, duration: float) -> None:
        self._change(lambda job: job.changed(audio_duration=duration))

    def on_turn(self, turn: Turn) -> None:
        # The first of each kind is news; a long job takes many turns.
        level = logging.DEBUG if turn in self._heard else logging.INFO
        self._heard.add(turn)
        if turn is Turn.WAITING:
            logger.log(level, "⏳ Job %s waiting for GPU availability...", self._id)
            self._change(lambda job: job.changed(progress=Progress.WAITING))
            return
        logger.log(level, "🎬 Job %s acquired GPU slot, starting processing...", self._id)
        logger.log(level, "🎙️ Job %s: Starting transcription...", self._id)
        self._change(_on_the_model)

    def on_window(self, window: FinishedWindow) -> None:
        if window.segments:
            self._watchers.tell(self._id, window.segments)
        self._estimate.transcribed(max(0.0, window.seconds_done - self._seconds_done))
        self._seconds_done = window.seconds_done
        if window.duration is None:  # it is still being decoded
            self._change(lambda job: job.changed(language=window.language))
            return
        percent = round(min(100.0, 100 * window.seconds_done / window.duration), 1)
        self._change(lambda job: job.changed(progress_percent=percent, language=window.language))

    def _change(self, change: Callable[[Job], Job]) -> None:
        with suppress(UnknownJob):  # it was forgotten while its last window was on the model
            self._registry.update(self._id, lambda job: change(job) if job.is_active else job)


def _on_the_model(job: Job) -> Job:
    if job.status is JobStatus.QUEUED:
        return job.moved_to(JobStatus.PROCESSING, at=time.time(), progress=Progress.TRANSCRIBING)
    return job.changed(progress=Progress.TRANSCRIBING)


def _seconds_since_start(job: Job) -> float:
    """Since the job's first permit; 0 if it never had one."""
    return 0.0 if job.started_at is None else max(0.0, time.time() - job.started_at)
