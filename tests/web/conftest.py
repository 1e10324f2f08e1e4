"""Fixtures of ``tests/api``."""

from tests.api.conftest import held, running, shared

__all__ = ["held", "running", "shared"]
