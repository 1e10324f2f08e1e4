"""``scripts/demo.py``: a recording from the upload to the transcript in a bucket, and then a page to try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest
import real_models

pytestmark = pytest.mark.full(reason="starts the service and an S3")

DEMO: Final = Path(__file__).parents[1] / "scripts" / "demo.py"


def test_demo_ends_with_the_right_transcript_of_the_model_that_is_installed() -> None:
    ran = subprocess.run(
        [sys.executable, DEMO, "--exit"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    model = "demo, a toy" if real_models.tiny_en() is None else "tiny.en, OpenAI's"
    assert f"Model     {model}" in ran.stdout
    assert "The transcript is right." in ran.stdout


def test_demo_keeps_running_and_ends_with_the_address_of_the_page() -> None:
    with subprocess.Popen([sys.executable, DEMO], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout
        try:
            address = next(line.split()[-1] for line in demo.stdout if line.startswith("The page:"))
            page = httpx.get(address, trust_env=False)
        finally:
            demo.terminate()
            rest = demo.stdout.read()
    assert page.headers["content-type"].startswith("text/html")
    assert rest.strip() == ""
