"""The service without journal and without a single sync to the disk: what durability is compared with.

python -m benchmarks.forgetful_server
"""

from __future__ import annotations

import os
import sys
from typing import Any

import app.main
from app.__main__ import end, main
from app.jobs.journal import NoJournal


def _no_journal(*_: Any) -> NoJournal:
    return NoJournal()


def _not_synced(_descriptor: int) -> None:
    pass


if __name__ == "__main__":
    app.main.SqliteJournal = _no_journal  # type: ignore[assignment,attr-defined]  # for this process
    os.fsync = os.fdatasync = _not_synced  # type: ignore[assignment]  # likewise
    sys.stderr.write("Nothing that this server accepts survives it.\n")
    end(main())
