"""Generated requests: the service answers none with a server error, and all as its OpenAPI document describes."""

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

pytestmark = [pytest.mark.anyio, pytest.mark.contract, pytest.mark.full(reason="sends hundreds of requests")]

PROGRAM = Path(__file__).parent.parent.parent / "scripts" / "fuzz_api.py"


@pytest.mark.timeout(1200)
async def test_generated_requests_find_no_error_and_no_undescribed_response(
    tmp_path: Path, model: WhisperModel
) -> None:
    async with serving(tmp_path / "data", lambda: model, max_queued_jobs=10_000) as running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, PROGRAM, running.address, "--examples", "4"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    report = output.decode(errors="replace")
    assert process.returncode == 0, report[-20_000:]
    counted = re.search(r"^(\d+) requests in", report, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) > 300
