"""The service with internal intervals that no setting changes, shortened for a test.

Usage: ``python -m tests.faults.tuned_service [--delivery-round SECONDS] [--body-window SECONDS]``
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from app.__main__ import end, main
from app.delivery.retry import RoundSchedule
from app.edge.connections import ConnectionLimits

if TYPE_CHECKING:
    from collections.abc import Callable


def tuned(*, delivery_round: float | None = None, body_window: float | None = None) -> tuple[str, ...]:
    """Return the command that runs the service with these seconds between rounds, or per check of a body's rate."""
    command = [sys.executable, "-m", "tests.faults.tuned_service"]
    if delivery_round is not None:
        command += ["--delivery-round", str(delivery_round)]
    if body_window is not None:
        command += ["--body-window", str(body_window)]
    return tuple(command)


def _set_default(function: Callable[..., None], name: str, value: Any) -> None:
    defaults = function.__kwdefaults__
    assert defaults is not None
    assert name in defaults
    defaults[name] = value


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delivery-round", type=float)
    parser.add_argument("--body-window", type=float)
    options = parser.parse_args()
    if options.delivery_round is not None:
        _set_default(RoundSchedule.__init__, "waits", (options.delivery_round,))
    if options.body_window is not None:
        _set_default(ConnectionLimits.__init__, "window_seconds", options.body_window)
    end(main())
