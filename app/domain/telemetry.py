"""The telemetry of libraries, which is disabled before they are loaded."""

from __future__ import annotations

import os


def disable_telemetry() -> None:
    """Keep onnxruntime quiet; call this before it, or a library that uses it, is imported.

    Since 1.32 it would store an identifier of this machine on its disk and send events to its vendor.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
