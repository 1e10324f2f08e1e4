"""Measurements of the service; see ``README.md``."""

import app as _app  # noqa: F401  # limits numpy's threads before a benchmark imports it
