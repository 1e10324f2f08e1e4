"""Made-up requests against the running service: no server error, and every answer as /openapi.json describes it."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.service import serving

if TYPE_CHECKING:
    from app.transcription.whisper import WhisperModel

pytestmark = [pytest.mark.anyio, pytest.mark.full(reason="sends hundreds of requests")]

PROGRAM = Path(__file__).parent.parent.parent / "scripts" / "fuzz_api.py"


@pytest.mark.timeout(300)
async def test_made_up_requests_find_no_server_error_and_no_answer_that_is_not_described(
    tmp_path: Path, model: WhisperModel
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_queued_jobs=10_000) as running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, PROGRAM, running.address, "--examples", "4"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
    report = said.decode(errors="replace")
    assert process.returncode == 0, report[-20_000:]
    counted = re.search(r"^(\d+) requests in", report, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) > 300
