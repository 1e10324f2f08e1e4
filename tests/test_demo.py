"""``scripts/demo.py`` and ``scripts/demo_cluster.py``: recordings from the upload to their transcripts in a bucket."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest
import real_models
from local_postgres import LocalPostgres, PostgresMissing

pytestmark = pytest.mark.full(reason="starts the service and an S3")

SCRIPTS: Final = Path(__file__).parents[1] / "scripts"
DEMO: Final = SCRIPTS / "demo.py"
CLUSTER: Final = SCRIPTS / "demo_cluster.py"


def demonstrate(demo: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a demo until it ends."""
    return subprocess.run(
        [sys.executable, demo, "--exit"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_demo_ends_with_the_right_transcript_of_the_model_that_is_installed() -> None:
    ran = demonstrate(DEMO)
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


def test_cluster_demo_finds_all_transcripts_after_the_death_of_a_worker() -> None:
    try:
        LocalPostgres()
    except PostgresMissing as exc:
        pytest.skip(str(exc))
    ran = demonstrate(CLUSTER, DATABASE_URL="postgresql://127.0.0.1:9/another", AWS_PROFILE="another")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert any(line.startswith("Killed      worker-1 (kill -9)") for line in lines)
    assert sum(line.endswith("  right") for line in lines) == 20
    assert {line.split()[2] for line in lines if line.endswith("  right")} == {"api-1", "api-2"}
    assert lines[-1] == "20 of 20 transcripts in s3://transcripts are right."


@pytest.mark.smoke
def test_missing_postgresql_is_reported_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PostgresMissing, match=r"install it .*: apt-get install postgresql"):
        LocalPostgres(tmp_path)


@pytest.mark.smoke
def test_newest_postgresql_is_found_outside_of_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ("9", "15", "17", "common"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres", "psql"):
            (folder / name).touch()
    assert "/17/bin/" in LocalPostgres(tmp_path).programs["initdb"]
