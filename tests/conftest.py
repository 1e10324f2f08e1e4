"""The tiers of the tests, and fixtures for all tests: the demo model, the samples, an S3 store, a fake clock."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from fastapi.dependencies import models as fastapi_models
from hypothesis import HealthCheck, settings
from local_s3 import LocalS3

from app.delivery import attempts
from app.delivery.attempts import Clock
from app.transcription.loading import ModelChoice, load
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.transcription.whisper import WhisperModel

SAMPLES = Path(__file__).parent.parent / "samples"

_DESELECTED = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `full` as well")
    parser.addoption(
        "--long", action="store_true", help="run all tests, those marked `long` too, and random ones more often"
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import onnxruntime without the service, which sets this too
    examples = {"quick": 20, "full": 40, "long": 100}[_tier(config)]
    settings.register_profile(
        "tier", max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("tier")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start one worker more than there are cores, because some tests wait."""
    return (os.cpu_count() or 1) + 1


def _tier(config: pytest.Config) -> str:
    if config.getoption("--long"):
        return "long"
    return "full" if config.getoption("--all") else "quick"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    excluded = {"quick": {"full", "long"}, "full": {"long"}, "long": set[str]()}[_tier(config)]
    deselected = [item for item in items if _tier_of(item) in excluded]
    if deselected:
        items[:] = [item for item in items if _tier_of(item) not in excluded]
        config.hook.pytest_deselected(items=deselected)
        config.stash[_DESELECTED] = Counter(map(_tier_of, deselected))


def _tier_of(item: pytest.Item) -> str:
    """Return ``long``, ``full`` or ``quick``. A test with several markers is in the tier that is named first here."""
    for tier in ("long", "full"):
        for marker in item.iter_markers(tier):
            if not marker.kwargs.get("reason"):
                raise pytest.UsageError(f"{item.nodeid}: the marker `{tier}` needs a reason")
            return "quick" if item.get_closest_marker("smoke") else tier
    return "quick"


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    deselected = config.stash.get(_DESELECTED, Counter[str]())
    options = {"full": "--all", "long": "--long"}
    return [f"{count} tests left out: {options[tier]} runs them" for tier, count in sorted(deselected.items())]


@pytest.fixture(scope="module", autouse=True)
def fastapi_caches_are_cleared() -> Iterator[None]:
    """Release the routes of finished applications, which FastAPI caches: about 7 MB and 11,000 objects each."""
    yield
    for remembering in vars(fastapi_models).values():
        if hasattr(remembering, "cache_clear"):
            remembering.cache_clear()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Return whether ``--long`` was given."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def event_loop_is_not_blocked() -> Iterator[None]:
    """Raise ``BlockingError`` in the code of the service that blocks the event loop."""
    with blockbuster_ctx("app") as detector:
        # Coverage acquires locks whenever a function of the service is called.
        detector.functions["threading.Lock.acquire"].deactivate()
        yield


@pytest.fixture(scope="session", autouse=True)
def no_settings_in_the_environment() -> Iterator[None]:
    """Hide the settings of the machine that runs the tests."""
    from app.settings import Settings

    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(autouse=True)
def no_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run each test in an empty folder, where the service finds no ``.env``."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def late_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an attempt end by the timeout of a step, which on a busy machine can be noticed after the deadline."""
    monkeypatch.setattr(attempts, "_DEADLINE_MARGIN_SECONDS", 120.0)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of sample recordings."""
    return SAMPLES


@pytest.fixture(scope="session")
def references() -> dict[str, dict[str, Any]]:
    """The texts and times spoken in each sample, by its file name."""
    entries = json.loads((SAMPLES / "references.json").read_text())
    return {entry["file"]: entry for entry in entries}


@pytest.fixture(scope="session")
def model() -> WhisperModel:
    """The demo model on the CPU."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu"))
    return loaded


@pytest.fixture(scope="session")
def store() -> Iterator[LocalS3]:
    """A local S3 store with the bucket ``results``."""
    with LocalS3(port=int(free_port())) as local:
        local.create_bucket("results")
        yield local


@pytest.fixture
def waits() -> list[float]:
    """The seconds of each ``sleep()`` of ``clock``, in order."""
    return []


@pytest.fixture
def clock(waits: list[float]) -> Clock:
    """A clock that does not sleep, and whose random numbers are all 0.5."""

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return Clock(sleep=sleep, random=lambda: 0.5)
