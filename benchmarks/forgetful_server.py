"""The service without a journal and without syncs to the disk, as the baseline of durability.

python -m benchmarks.forgetful_server
"""

from __future__ import annotations

import os
import sys
from typing import Any

import app.main
from app.__main__ import end, main
from app.jobs.journal import NoJournal
from benchmarks.replacing import replace


def _no_journal(*_: Any) -> NoJournal:
    return NoJournal()


def _no_sync(_descriptor: int) -> None:
    pass


if __name__ == "__main__":
    replace(app.main, "SqliteJournal", _no_journal)
    replace(os, "fsync", _no_sync)
    replace(os, "fdatasync", _no_sync)
    sys.stderr.write("Nothing that this server accepts survives its end.\n")
    end(main())
