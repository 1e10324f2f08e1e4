"""The metrics that the alerts and the dashboard use, with their labels."""

from __future__ import annotations

from typing import Final

GAUGES: Final = {
    "transcription_jobs": {"status"},
    "transcription_waiting_requests": set[str](),
    "transcription_unserved": set[str](),
    "transcription_permits": set[str](),
    "transcription_permits_held": set[str](),
    "transcription_models_loaded": set[str](),
    "transcription_ready": set[str](),
    "transcription_undelivered": set[str](),
    "transcription_spool_bytes": set[str](),
    "transcription_disk_free_bytes": set[str](),
    "transcription_connections": set[str](),
    "transcription_realtime_sessions": set[str](),
    "transcription_build_info": {"version"},
}
COUNTERS: Final = {
    "transcription_ended_total": {"kind", "status"},
    "transcription_audio_seconds_total": set[str](),
    "transcription_attempts_total": {"transfer", "outcome"},
    "transcription_deliveries_total": {"destination", "outcome"},
    "transcription_received_bytes_total": set[str](),
    "transcription_downloaded_bytes_total": set[str](),
    "transcription_delivered_bytes_total": set[str](),
    "transcription_device_seconds_total": {"device", "state"},
    "transcription_model_unloads_total": {"reason"},
    "transcription_model_errors_total": {"kind"},
    "transcription_http_requests_total": {"route", "status"},
    "transcription_connections_closed_total": {"reason"},
    "transcription_realtime_sessions_total": {"reason"},
}
HISTOGRAMS: Final = {
    "transcription_queue_wait_seconds": set[str](),
    "transcription_processing_seconds": set[str](),
    "transcription_realtime_final_seconds": set[str](),
    "transcription_real_time_factor": set[str](),
    "transcription_model_load_seconds": set[str](),
    "transcription_batch_windows": set[str](),
    "transcription_batch_fill_ratio": set[str](),
    "transcription_event_loop_lag_seconds": set[str](),
}
#: Metrics of the process from the client library on Linux, as far as they are used.
PROCESS: Final = {
    "process_start_time_seconds": set[str](),
    "process_cpu_seconds_total": set[str](),
    "process_resident_memory_bytes": set[str](),
    "process_open_fds": set[str](),
    "process_max_fds": set[str](),
}
#: Labels that Prometheus adds.
ADDED_LABELS: Final = {"job", "instance"}


def exposed() -> dict[str, set[str]]:
    """Return all names that a query can have, with their labels."""
    names = GAUGES | COUNTERS | PROCESS
    for name, labels in HISTOGRAMS.items():
        names |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return names
