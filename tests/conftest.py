"""The tiers of the tests, and fixtures for all tests: the demo model, the samples, an S3 store, a fake clock."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import BlockBuster
from fastapi.dependencies import models as fastapi_models
from hypothesis import HealthCheck, settings
from local_postgres import LocalPostgres, PostgresMissing
from local_s3 import LocalS3

from app.delivery import attempts
from app.delivery.attempts import Clock
from app.transcription.loading import ModelChoice, load
from tests.support.cluster_mode import MIGRATED, cluster_mode
from tests.support.program import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.transcription.whisper import WhisperModel

SAMPLES = Path(__file__).parent.parent / "samples"

#: The tiers of tests in the order of their size, and the option that runs each of them.
_TIERS = {"quick": "", "full": "--all", "long": "--long"}
_DESELECTED = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `full` as well")
    parser.addoption(
        "--cluster", action="store_true", help="run the tests marked `contract`, against nodes of a cluster"
    )
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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave modules without tests of the contract out, with ``--cluster``."""
    is_module = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if config.getoption("--cluster") and is_module:
        return "pytest.mark.contract" not in collection_path.read_text() or None
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage meanwhile, and never look at the thousands of tests again: half of the time is saved."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {item: _reason_to_leave_out(item, config) for item in items}
    if config.getoption("--cluster") and _tier(config) == "quick":
        reasons |= dict.fromkeys(_with_further_parameters(items, reasons), "--all runs them")
    deselected = [item for item in items if reasons[item]]
    if deselected:
        items[:] = [item for item in items if not reasons[item]]
        config.hook.pytest_deselected(items=deselected)
        config.stash[_DESELECTED] = Counter(reasons[item] for item in deselected)


def _with_further_parameters(items: list[pytest.Item], reasons: dict[pytest.Item, str]) -> Iterator[pytest.Item]:
    """Yield the tests that run, and before which the same function runs with other parameters."""
    names = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if not reasons[item]:
            if name in names:
                yield item
            names.add(name)


def _reason_to_leave_out(item: pytest.Item, config: pytest.Config) -> str:
    """Return the reason for which a test does not run, empty if it runs."""
    is_of_one_process = _has_marker_with_reason(item, "one_process")
    if config.getoption("--cluster") and (is_of_one_process or not item.get_closest_marker("contract")):
        return "they say nothing about a cluster"
    tier = _tier_of(item)
    order = list(_TIERS)
    return f"{_TIERS[tier]} runs them" if order.index(tier) > order.index(_tier(config)) else ""


def _tier_of(item: pytest.Item) -> str:
    """Return ``long``, ``full`` or ``quick``. A test with several markers is in the tier that is named first here."""
    for tier in ("long", "full"):
        if _has_marker_with_reason(item, tier):
            return "quick" if item.get_closest_marker("smoke") else tier
    return "quick"


def _has_marker_with_reason(item: pytest.Item, name: str) -> bool:
    markers = list(item.iter_markers(name))
    if not all(marker.kwargs.get("reason") for marker in markers):
        raise pytest.UsageError(f"{item.nodeid}: the marker `{name}` needs a reason")
    return bool(markers)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    deselected = config.stash.get(_DESELECTED, Counter[str]())
    return [f"{count} tests left out: {reason}" for reason, count in sorted(deselected.items())]


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


@pytest.fixture(scope="session")
def detector() -> BlockBuster:
    detector = BlockBuster("app")
    # Coverage acquires locks whenever a function of the service is called.
    del detector.functions["threading.Lock.acquire"]
    return detector


@pytest.fixture(autouse=True)
def event_loop_is_not_blocked(detector: BlockBuster) -> Iterator[None]:
    """Raise ``BlockingError`` in the code of the service that blocks the event loop."""
    detector.activate()
    yield
    detector.deactivate()


@pytest.fixture(scope="session", autouse=True)
def no_settings_in_the_environment() -> Iterator[None]:
    """Hide the settings of the machine that runs the tests."""
    from app.settings import Settings

    with pytest.MonkeyPatch.context() as environment:
        for name in Settings.model_fields:
            environment.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(autouse=True)
def no_env_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> Iterator[None]:
    """Run each test in an empty folder, where the service finds no ``.env``."""
    monkeypatch.chdir(request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else empty_folder)
    yield
    assert not any(empty_folder.iterdir()), "a test that writes to its folder must use `tmp_path`"


@pytest.fixture
def late_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an attempt end by the timeout of a step, which on a busy machine can be noticed after the deadline."""
    monkeypatch.setattr(attempts, "_DEADLINE_MARGIN_SECONDS", 120.0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """A running PostgreSQL whose database ``MIGRATED`` has the tables of a cluster."""
    from tests.cluster.conftest import migrate  # only for clusters

    try:
        # Its launcher of vacuums can hold up the removal of a database for a minute.
        server = LocalPostgres(port=int(free_port()), autovacuum="off")
    except PostgresMissing as exc:
        pytest.skip(str(exc))
    with server:
        asyncio.run(migrate(server.create_database(MIGRATED)))
        yield server


@pytest.fixture(scope="session", autouse=True)
def services_are_nodes(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--cluster``, make each service of a test a node of a cluster."""
    if not request.config.getoption("--cluster"):
        yield
        return
    with cluster_mode.on(request.getfixturevalue("postgres")):
        yield


@pytest.fixture(autouse=True)
def databases_are_dropped() -> Iterator[None]:
    """Drop the databases of the test's services when all of them have ended."""
    yield
    cluster_mode.drop()


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
    """The demo model on the CPU, in one thread: several are slow while other tests use the cores."""
    (loaded,) = load(ModelChoice(name="demo", device="cpu", cpu_threads=1))
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
