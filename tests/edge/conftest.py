"""The fixtures of the API's tests, for requests that the HTTP front handles."""

from __future__ import annotations

from tests.api.conftest import anyio_backend, held, running, shared

__all__ = ["anyio_backend", "held", "running", "shared"]
