"""The fixtures of the API's tests, for requests that the HTTP front handles."""

from __future__ import annotations

from tests.api.conftest import held, running, shared

__all__ = ["held", "running", "shared"]
