"""What is counted, as Prometheus reads it: one collector for what happens, one for what is, looked at when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from app.domain import events
from app.domain.events import CutReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from app.domain.events import Event

#: The text format, as its specification names it.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_WAITS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800)
_FACTORS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LAGS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_SIZES: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
_SHARES: Final = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)

#: A gauge's name → its values, each with the values of its labels.
Gauges = dict[str, "float | Mapping[str, float]"]


class Metrics:
    """Counts what it is events. ``version`` is that of the service."""

    def __init__(self, *, version: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._version = version

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"transcription_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"transcription_{name}", text, buckets=buckets, registry=registry)

        self._ended = counter("ended_total", "Jobs, and requests whose client waits, that ended.", "kind", "status")
        self._audio = counter("audio_seconds_total", "Seconds of audio transcribed.")
        self._attempts = counter("attempts_total", "Attempts to move bytes.", "transfer", "outcome")
        self._rounds = counter("deliveries_total", "Rounds of deliveries.", "destination", "outcome")
        self._received = counter("received_bytes_total", "Bytes of audio that came with requests.")
        self._downloaded = counter("downloaded_bytes_total", "Bytes of audio fetched from URLs.")
        self._delivered = counter("delivered_bytes_total", "Bytes of results PUT to URLs.")
        self._model_errors = counter("model_errors_total", "Batches that the model failed at.", "kind")
        self._requests = counter("http_requests_total", "Requests answered.", "route", "status")
        self._cut = counter("connections_closed_total", "Connections closed from this side.", "reason")
        self._queue_wait = histogram("queue_wait_seconds", "From acceptance to the first slot.", _WAITS)
        self._processing = histogram("processing_seconds", "From the first slot to the transcript.", _WAITS)
        self._factor = histogram("real_time_factor", "Processing time over the audio's duration.", _FACTORS)
        self._windows = histogram("batch_windows", "Windows decoded together.", _SIZES)
        self._fill = histogram("batch_fill_ratio", "Windows decoded together over those that might be.", _SHARES)
        self._lag = histogram("event_loop_lag_seconds", "By how much the event loop is late.", _LAGS)
        self._show_zeros()

    def _show_zeros(self) -> None:
        """A counter that appears with its first failure can't be seen to rise."""
        for kind in events.ModelFailure:
            self._model_errors.labels(kind)
        for outcome in events.AttemptOutcome:
            for transfer in ("upload", "webhook", "download"):
                self._attempts.labels(transfer, outcome)
        for destiny in events.DeliveryOutcome:
            for destination in ("upload", "webhook"):
                self._rounds.labels(destination, destiny)
        for reason in CutReason:
            self._cut.labels(reason)
        for kind_of_work in ("job", "request"):
            for status in ("completed", "failed", "cancelled"):
                self._ended.labels(kind_of_work, status)

    def watch(self, gauges: Callable[[], Gauges]) -> None:
        """Has ``gauges`` asked for what is, whenever somebody looks."""
        self._registry.register(_Gauges(gauges, version=self._version))

    def render(self) -> bytes:
        return generate_latest(self._registry)

    def __call__(self, event: Event) -> None:  # noqa: C901  # one line for each
        match event:
            case events.JobEnded(job):
                self._ended.labels("request" if job.synchronous else "job", job.status).inc()
            case events.JobStarted(job):
                self._queue_wait.observe(max(0.0, (job.started_at or job.accepted_at) - job.accepted_at))
            case events.Transcribed(_, audio_seconds, processing_seconds):
                self._audio.inc(audio_seconds)
                self._processing.observe(processing_seconds)
                if audio_seconds:
                    self._factor.observe(processing_seconds / audio_seconds)
            case events.AttemptEnded(transfer, outcome):
                self._attempts.labels(transfer, outcome).inc()
            case events.RoundEnded(destination, destiny):
                self._rounds.labels(destination, destiny).inc()
            case events.AudioReceived(size):
                self._received.inc(size)
            case events.AudioDownloaded(size):
                self._downloaded.inc(size)
            case events.ResultUploaded(size):
                self._delivered.inc(size)
            case events.BatchDecoded(windows, capacity):
                self._windows.observe(windows)
                self._fill.observe(windows / max(windows, capacity))
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
    """Asks for values when they are collected, as prometheus_client has it of a collector."""

    def __init__(self, gauges: Callable[[], Gauges], *, version: str) -> None:
        self._gauges = gauges
        self._version = version

    def collect(self) -> Iterable[GaugeMetricFamily]:
        build = GaugeMetricFamily("transcription_build_info", "What runs.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        for name, value in self._gauges().items():
            text = _TEXTS[name]
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"transcription_{name}", text, value=value)
                continue
            family = GaugeMetricFamily(f"transcription_{name}", text, labels=["status"])
            for label, one in value.items():
                family.add_metric([label], one)
            yield family


_TEXTS: Final = {
    "jobs": "Background jobs that are known, by status.",
    "waiting_requests": "Jobs and requests that wait for their first slot.",
    "permits": "Requests that may be on the model at once.",
    "permits_held": "Requests on the model.",
    "ready": "Whether the service takes work.",
    "undelivered": "Jobs with something still to be delivered.",
    "spool_bytes": "Bytes of audio claimed on disk.",
    "disk_free_bytes": "Bytes free on the disk of DATA_DIR.",
    "connections": "Connections open.",
}
