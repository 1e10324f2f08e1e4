"""The documents say what is so: their settings, links, paths and examples are held to the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from app.delivery.retry import RoundSchedule
from app.domain.job import TRANSITIONS
from app.main import create_app
from app.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final = sorted(
    path for folder in (".", "docs", "benchmarks", "tools/*") for path in ROOT.glob(f"{folder}/*.md")
)
README: Final = ROOT / "README.md"
TIMEOUTS: Final = ROOT / "TIMEOUT_CONFIGURATION.md"
JOBS: Final = ROOT / "docs" / "jobs.md"
EXAMPLE: Final = ROOT / ".env.example"

#: The variables of the environment that are this service's own.
SETTINGS: Final = frozenset(name.upper() for name in Settings.model_fields)
#: Other programs' variables, and those of the examples.
FOREIGN: Final = frozenset(
    {"BUCKET", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HTTPS_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PYTHON"}
    | {"UPLOAD_URL"}
)
#: What those who move here have set elsewhere.
ELSEWHERE: Final = frozenset(
    {"API_KEY", "ASR_DEVICE", "ASR_ENGINE", "ASR_MODEL", "ASR_MODEL_PATH", "ASR_QUANTIZATION", "MODEL_IDLE_TIMEOUT"}
    | {"PRELOAD_MODELS", "STT_MODEL_TTL", "SUBTITLE_HIGHLIGHT_WORDS", "SUBTITLE_MAX_LINE_COUNT"}
    | {"SUBTITLE_MAX_LINE_WIDTH", "UVICORN_HOST", "UVICORN_PORT"}
)
#: Made when the service or a program runs, so not in the repository.
MADE_LATER: Final = (".env", ".venv", "build", "data")

_ROW: Final = re.compile(r"^\| `([A-Z][A-Z0-9_]*)` \| (?:`([^`]*)`|empty) \|", re.MULTILINE)
_LINE: Final = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_ROUTE: Final = re.compile(r"(GET|POST|PUT|DELETE) (/[^\s?]*)(?:\?\S*)?")
_TRANSITION: Final = re.compile(r"^\| `(\w+)` \| `(\w+)` \|", re.MULTILINE)
_ROUND: Final = re.compile(r"^\| (\d+)(?: and more)? \| (\d+) (s|min|h) \|$", re.MULTILINE)
_UNITS: Final = {"s": 1, "min": 60, "h": 3600}
_PATH: Final = re.compile(r"(?:\.?/)?[\w.-]+(?:/[\w.-]+)*/?")


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def rows(text: str) -> dict[str, str]:
    """The defaults in a table of settings, by variable."""
    return {match[1]: match[2] or "" for match in _ROW.finditer(text)}


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


def prose(text: str) -> str:
    return _BLOCK.sub("", text)


def meaning(written: dict[str, str]) -> dict[str, Any]:
    """What the service makes of values as they are written down."""
    nothing = {name.lower() for name, default in defaults(frozenset(written)).items() if default is None}
    given: dict[str, Any] = {
        name.lower(): None if not value and name.lower() in nothing else value for name, value in written.items()
    }
    read = Settings(_env_file=None, **given)
    return {name: getattr(read, name.lower()) for name in written}


def defaults(names: frozenset[str]) -> dict[str, Any]:
    return {name: Settings.model_fields[name.lower()].default for name in names}


def named_variables(text: str) -> set[str]:
    """The variables in code spans and at the beginning of lines and commands of code blocks."""
    spans = {span.partition("=")[0] for span in _SPAN.findall(prose(text))}
    code = "\n".join(block for _, block in _BLOCK.findall(text))
    set_there = set(re.findall(r"(?:^|(?<=[\s(]))([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)=", code, re.MULTILINE))
    return {name for name in spans if _VARIABLE.fullmatch(name)} | set_there


def named_routes(text: str) -> set[tuple[str, str]]:
    """Methods and paths in code spans, their parameters left open."""
    found = (_ROUTE.fullmatch(span) for span in _SPAN.findall(prose(text)))
    return {(match[1], _open(match[2])) for match in found if match}


def _open(path: str) -> str:
    return re.sub(r"\{\w+(?::\w+)?\}|<\w+>", "{}", path)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    settings = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("data"))
    app = create_app(settings, stop=lambda _: None)
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    return {(method, _open(path)) for method, path in described | {("GET", "/docs"), ("GET", "/openapi.json")}}


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def named_paths(text: str) -> set[str]:
    """What looks like a path of this repository, in code spans and in commands."""
    code = " ".join(block for language, block in _BLOCK.findall(text) if language in ("bash", "sh"))
    words = _SPAN.findall(prose(text)) + re.findall(r"[\w./@-]+", code)
    tops = {path.name for path in ROOT.iterdir()}
    found = set()
    for word in words:
        path = word.partition("@")[2] or word
        in_tree = path.removeprefix("./").partition("/")[0] in tops and "/" in path
        if _PATH.fullmatch(path) and (in_tree or path.startswith("./")):
            found.add(path.removeprefix("./"))
    return {path for path in found if path.partition("/")[0] not in MADE_LATER}


def test_readme_table_has_every_setting_with_its_default() -> None:
    written = rows(section(text_of(README), "Settings"))
    assert written.keys() == SETTINGS
    assert meaning(written) == defaults(SETTINGS)


def test_example_environment_has_every_setting_with_its_default() -> None:
    lines = _LINE.findall(text_of(EXAMPLE))
    assert sorted(name for name, _ in lines) == sorted(SETTINGS)
    assert meaning(dict(lines)) == defaults(SETTINGS)


def test_example_environment_changes_nothing_when_copied() -> None:
    assert [line for line in text_of(EXAMPLE).splitlines() if line and not line.startswith("#")] == []


def test_each_line_of_the_example_environment_has_its_meaning_above() -> None:
    lines = text_of(EXAMPLE).splitlines()
    bare = [line for above, line in pairwise(lines) if _LINE.match(line) and not above.startswith("# ")]
    assert bare == []


def test_timeout_document_has_every_limit_in_seconds_with_its_default() -> None:
    text = text_of(TIMEOUTS)
    limits = frozenset(name for name in SETTINGS if name.endswith("_SECONDS") and name != "MAX_AUDIO_SECONDS")
    written = rows(text)
    assert written.keys() == limits | {"UPLOAD_MAX_ATTEMPTS"}
    assert meaning(written) == defaults(frozenset(written))


def test_timeout_document_begins_with_transcription_having_none() -> None:
    first = next(line for line in text_of(TIMEOUTS).splitlines() if line and not line.startswith("#"))
    assert first.startswith("**Transcription has no timeout in any mode: it runs as long as it needs.**")


def test_timeout_document_has_the_waits_between_rounds() -> None:
    waits = _ROUND.findall(section(text_of(TIMEOUTS), "Rounds"))
    assert [int(number) for number, _, _ in waits] == list(range(1, len(waits) + 1))
    assert tuple(int(number) * _UNITS[unit] for _, number, unit in waits) == RoundSchedule().waits


def test_jobs_document_has_every_transition_and_no_other() -> None:
    written = _TRANSITION.findall(section(text_of(JOBS), "States"))
    assert sorted(written) == sorted(
        (here.value, there.value) for here, others in TRANSITIONS.items() for there in others
    )


def test_jobs_document_draws_every_status() -> None:
    (drawing,) = (block for _, block in _BLOCK.findall(section(text_of(JOBS), "States")))
    assert {status for status in TRANSITIONS if status.value not in drawing} == set()


def test_what_is_not_available_yet_is_neither_a_setting_nor_a_route(routes: set[tuple[str, str]]) -> None:
    promised = section(text_of(README), "Not available yet")
    assert named_variables(promised) & SETTINGS == set()
    assert named_routes(promised)
    assert named_routes(promised) & routes == set()


# docs/migration.md names those of other services.
@pytest.mark.parametrize(
    "document", [one for one in DOCUMENTS if one.name != "migration.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_documents_name_no_route_that_does_not_exist(document: Path, routes: set[tuple[str, str]]) -> None:
    text = text_of(document)
    if document == README:
        text = text.replace(section(text, "Not available yet"), "")
    assert named_routes(text) - routes == set()


def test_the_documents_name_the_routes_that_they_are_known_to_name() -> None:
    """The search above finds something."""
    assert ("POST", "/v1/jobs/{}/redeliver") in named_routes(text_of(JOBS)) & named_routes(text_of(TIMEOUTS))


@pytest.mark.parametrize("document", [*DOCUMENTS, EXAMPLE], ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_no_variable_that_does_not_exist(document: Path) -> None:
    unknown = named_variables(text_of(document)) - SETTINGS - FOREIGN
    if document.name == "migration.md":
        unknown -= ELSEWHERE
    assert {name for name in unknown if not name.startswith(("AWS_", "OTEL_"))} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(text_of(document))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(text_of(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", [*DOCUMENTS, EXAMPLE], ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_no_path_that_does_not_exist(document: Path) -> None:
    assert [path for path in sorted(named_paths(text_of(document))) if not (ROOT / path).exists()] == []


def test_the_readme_names_the_paths_that_it_is_known_to_name() -> None:
    """The search above finds something."""
    assert named_paths(text_of(README)) >= {"start_server.sh", "run_tests.sh", "samples/hello.wav"}


@pytest.mark.parametrize("script", ["start_server.sh", "run_tests.sh"])
def test_the_two_commands_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert f"./{script}" in text_of(README).partition("## ")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_valid_shell(document: Path) -> None:
    for language, block in _BLOCK.findall(text_of(document)):
        if language in ("bash", "sh"):
            checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)  # noqa: S607  # bash is where its PATH says
            assert checked.returncode == 0, checked.stderr


def test_python_examples_are_valid() -> None:
    examples = [block for language, block in _BLOCK.findall(text_of(README)) if language == "python"]
    assert examples
    for example in examples:
        ast.parse(example)
