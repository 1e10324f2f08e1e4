"""The service without a journal and without syncs to the disk, as the baseline of durability.

python -m benchmarks.forgetful_server
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import app.main
from app.__main__ import end, main
from app.jobs.journal import Journal
from benchmarks.replacing import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.domain.job import Job
    from app.domain.usage import Usage, UsageKey


class ForgetfulJournal(Journal):
    """A journal that keeps nothing."""

    def open(self) -> Sequence[Job]:
        return ()

    async def write(self, job: Job, used: tuple[UsageKey, Usage] | None = None) -> None:
        pass

    async def delete(self, job_id: str) -> None:
        pass

    async def save_service_clock(self) -> None:
        pass

    def close(self) -> None:
        pass


def _no_sync(_descriptor: int) -> None:
    pass


if __name__ == "__main__":
    replace(app.main, "Journal", ForgetfulJournal)
    replace(os, "fsync", _no_sync)
    replace(os, "fdatasync", _no_sync)
    sys.stderr.write("Nothing that this server accepts survives its end.\n")
    end(main())
