"""Fixtures of other folders."""

from tests.api.conftest import held, running, shared
from tests.clients.conftest import node_packages

__all__ = ["held", "node_packages", "running", "shared"]
