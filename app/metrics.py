"""Prometheus metrics: counters and histograms of events, and gauges that are read when they are scraped."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from app.domain import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.domain.events import Event

#: The media type of the Prometheus text format.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Buckets of the histograms: seconds, ratios of seconds, seconds, windows, and shares of a batch.
_DURATIONS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800)
_FACTORS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LAGS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SIZES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
_SHARES: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)

#: The value of each gauge by its name, or its values by their label.
Gauges = dict[str, "float | Mapping[str, float]"]


class Metrics:
    """An event sink that counts events. ``version`` is that of the service."""

    def __init__(self, *, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._version = version

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"transcription_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"transcription_{name}", text, buckets=buckets, registry=registry)

        self._ended = counter("ended_total", "Jobs and synchronous requests that ended.", "kind", "status")
        self._audio = counter("audio_seconds_total", "Seconds of audio transcribed.")
        self._attempts = counter(
            "attempts_total", "Attempts to upload, download or send a webhook event.", "transfer", "outcome"
        )
        self._rounds = counter(
            "deliveries_total", "Rounds of attempts to deliver a result or a webhook event.", "destination", "outcome"
        )
        self._received = counter("received_bytes_total", "Bytes of audio received in requests.")
        self._downloaded = counter("downloaded_bytes_total", "Bytes of audio downloaded from URLs.")
        self._delivered = counter("delivered_bytes_total", "Bytes of results uploaded to URLs.")
        self._device = counter(
            "device_seconds_total", "Seconds that a device of the model was in a state.", "device", "state"
        )
        self._unloads = counter("model_unloads_total", "Models that were unloaded.", "reason")
        self._model_errors = counter("model_errors_total", "Batches that the model failed to decode.", "kind")
        self._requests = counter("http_requests_total", "HTTP responses sent.", "route", "status")
        self._cut = counter("connections_closed_total", "Connections closed by the service.", "reason")
        self._sessions = counter("realtime_sessions_total", "Realtime sessions that ended.", "reason")
        self._live = histogram(
            "realtime_final_seconds", "Seconds from the end of live audio to its final text.", _DURATIONS
        )
        self._queue_wait = histogram("queue_wait_seconds", "Seconds from acceptance to the first slot.", _DURATIONS)
        self._processing = histogram("processing_seconds", "Seconds from the first slot to the transcript.", _DURATIONS)
        self._factor = histogram("real_time_factor", "Processing time divided by the duration of the audio.", _FACTORS)
        self._loads = histogram("model_load_seconds", "Seconds that loading a model took.", _DURATIONS)
        self._windows = histogram("batch_windows", "Windows decoded together.", _SIZES)
        self._fill = histogram("batch_fill_ratio", "Windows decoded together divided by a full batch.", _SHARES)
        self._lag = histogram("event_loop_lag_seconds", "Seconds by which the event loop ran a timer late.", _LAGS)
        self._initialize_labels()

    def _initialize_labels(self) -> None:
        """Initialize all labels to 0, since the first increase of a counter that appears later is not visible."""
        for state in events.DeviceState:
            self._device.labels("0", state)
        for counter, values in (
            (self._unloads, events.UnloadReason),
            (self._model_errors, events.ModelFailure),
            (self._cut, events.CutReason),
            (self._sessions, events.SessionEnd),
        ):
            for value in values:
                counter.labels(value)
        for outcome in events.AttemptOutcome:
            for transfer in ("upload", "webhook", "download"):
                self._attempts.labels(transfer, outcome)
        for round_outcome in events.DeliveryOutcome:
            for destination in ("upload", "webhook"):
                self._rounds.labels(destination, round_outcome)
        for job_kind, status in product(("job", "request"), ("completed", "failed", "cancelled")):
            self._ended.labels(job_kind, status)

    def add_gauges(self, gauges: Callable[[], Gauges]) -> None:
        """Call ``gauges`` for the values of all gauges whenever metrics are scraped."""
        self._registry.register(_Gauges(gauges, version=self._version))

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)

    def __call__(self, event: Event) -> None:  # noqa: C901  # one case for each event
        """Count ``event``."""
        match event:
            case events.JobEnded(job):
                self._ended.labels("request" if job.synchronous else "job", job.status).inc()
            case events.JobStarted(job, at):
                self._queue_wait.observe(max(0.0, at - job.accepted_at))
            case events.AudioTranscribed(_, audio_seconds, processing_seconds):
                self._audio.inc(audio_seconds)
                self._processing.observe(processing_seconds)
                if audio_seconds:
                    self._factor.observe(processing_seconds / audio_seconds)
            case events.UtteranceTranscribed(audio_seconds, seconds):
                self._audio.inc(audio_seconds)
                self._live.observe(seconds)
            case events.SessionEnded(session_end):
                self._sessions.labels(session_end).inc()
            case events.AttemptEnded(transfer, outcome):
                self._attempts.labels(transfer, outcome).inc()
            case events.RoundEnded(destination, outcome):
                self._rounds.labels(destination, outcome).inc()
            case events.AudioReceived(size):
                self._received.inc(size)
            case events.AudioDownloaded(size):
                self._downloaded.inc(size)
            case events.ResultUploaded(size):
                self._delivered.inc(size)
            case events.BatchDecoded(windows, capacity):
                self._windows.observe(windows)
                self._fill.observe(windows / max(windows, capacity))
            case events.DeviceTime(device, state, seconds):
                self._device.labels(str(device), state).inc(seconds)
            case events.ModelLoaded(seconds):
                self._loads.observe(seconds)
            case events.ModelUnloaded(unload_reason):
                self._unloads.labels(unload_reason).inc()
            case events.ModelFailed(kind):
                self._model_errors.labels(kind).inc()
            case events.ResponseSent(route, status):
                self._requests.labels(route, str(status)).inc()
            case events.ConnectionCut(reason):
                self._cut.labels(reason).inc()
            case events.LoopLagged(seconds):
                self._lag.observe(seconds)
            case _:
                pass


class _Gauges:
    """A collector of prometheus_client that calls ``gauges`` for their values when it is collected."""

    def __init__(self, gauges: Callable[[], Gauges], *, version: str) -> None:
        self._gauges = gauges
        self._version = version

    def collect(self) -> Iterable[GaugeMetricFamily]:
        build = GaugeMetricFamily("transcription_build_info", "The version of the service.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        for name, value in self._gauges().items():
            text = _TEXTS[name]
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"transcription_{name}", text, value=value)
                continue
            family = GaugeMetricFamily(f"transcription_{name}", text, labels=["status"])
            for label, number in value.items():
                family.add_metric([label], number)
            yield family


_TEXTS: Final = {
    "jobs": "Jobs in the registry, by status.",
    "waiting_requests": "Jobs and synchronous requests that wait for their first slot.",
    "unserved": "Jobs and synchronous requests that wait for a model that no worker of the cluster has.",
    "permits": "GPU slots.",
    "permits_held": "GPU slots in use.",
    "models_loaded": "Models in memory.",
    "ready": "1 if the service accepts requests, else 0.",
    "undelivered": "Jobs whose result or webhook event is not delivered yet.",
    "spool_bytes": "Bytes reserved for audio in the spool.",
    "disk_free_bytes": "Bytes free on the disk of DATA_DIR.",
    "connections": "Open connections.",
    "realtime_sessions": "Open realtime sessions.",
}
