"""The documentation is true: its settings, links, paths, routes and examples are compared with the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import document_settings
import pytest

from app.api.forms import TASK, TRANSCRIPTION_FIELDS, UNSUPPORTED, WORD_TIMESTAMPS
from app.delivery.retry import RoundSchedule
from app.domain.job import TRANSITIONS
from app.main import create_app
from app.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = ROOT / "README.md"
TIMEOUTS: Final = ROOT / "TIMEOUT_CONFIGURATION.md"
API: Final = ROOT / "docs" / "api.md"
ARCHITECTURE: Final = ROOT / "docs" / "architecture.md"
CONFIGURATION: Final = ROOT / "docs" / "configuration.md"
EXAMPLES: Final = ROOT / "docs" / "examples.md"
JOBS: Final = ROOT / "docs" / "jobs.md"
EXAMPLE_ENVIRONMENT: Final = ROOT / ".env.example"
DOCUMENTS: Final = sorted(
    path for folder in (".", "docs", "benchmarks", "tools/*") for path in ROOT.glob(f"{folder}/*.md")
)

#: The environment variables of this service.
SETTINGS: Final = frozenset(name.upper() for name in Settings.model_fields)
#: Variables of other programs and of the examples.
FOREIGN: Final = frozenset(
    {"BUCKET", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HTTPS_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PYTHON"}
    | {"UPLOAD_URL"}
)
#: Settings of other services, which docs/migration.md maps to ours.
OTHER_SERVICES: Final = frozenset(
    {"API_KEY", "ASR_DEVICE", "ASR_ENGINE", "ASR_MODEL", "ASR_MODEL_PATH", "ASR_QUANTIZATION", "MODEL_IDLE_TIMEOUT"}
    | {"PRELOAD_MODELS", "STT_MODEL_TTL", "SUBTITLE_HIGHLIGHT_WORDS", "SUBTITLE_MAX_LINE_COUNT"}
    | {"SUBTITLE_MAX_LINE_WIDTH", "UVICORN_HOST", "UVICORN_PORT"}
)
#: Settings of the programs in docs/integrations.md.
PROGRAMS: Final = frozenset(
    {"ASR_BASE_URL", "ASR_DIARIZE", "AUDIO_STT_ENGINE", "AUDIO_STT_MODEL", "AUDIO_STT_OPENAI_API_BASE_URL"}
    | {
        "AUDIO_STT_OPENAI_API_KEY",
        "STT_MODELS",
        "STT_OPENAI_KEY",
        "STT_OPENAI_URL",
        "STT_REALTIME_MODELS",
        "STT_STREAMING_MODELS",
    }
    | {"WYOMING_LANGUAGES", "WYOMING_URI"}
)
#: Paths that exist once the service or a script has run.
CREATED_LATER: Final = (".env", ".venv", "build", "data")

_ROW: Final = re.compile(r"^\| `([A-Z][A-Z0-9_]*)` \| (?:`([^`]*)`|empty) \|", re.MULTILINE)
_LINE: Final = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", re.MULTILINE)
_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_ROUTE: Final = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[^\s?]*)(?:\?\S*)?")
_TRANSITION: Final = re.compile(r"^\| `(\w+)` \| `(\w+)` \|", re.MULTILINE)
_ROUND: Final = re.compile(r"^\| (\d+)(?: and more)? \| (\d+) (s|min|h) \|$", re.MULTILINE)
_UNITS: Final = {"s": 1, "min": 60, "h": 3600}
_PATH: Final = re.compile(r"(?:\.?/)?[\w.-]+(?:/[\w.-]+)*/?")


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def setting_rows(text: str) -> dict[str, str]:
    """Return the defaults in the tables of settings, by variable."""
    return {match[1]: match[2] or "" for match in _ROW.finditer(text)}


def section(text: str, title: str) -> str:
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"there is no section {title!r}"
    return match[1]


def paragraph(text: str, beginning: str) -> str:
    match = re.search(rf"^{re.escape(beginning)}.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)
    assert match, f"no paragraph begins with {beginning!r}"
    return match[0]


def prose(text: str) -> str:
    return _BLOCK.sub("", text)


def parsed(texts: dict[str, str]) -> dict[str, Any]:
    """Return the values of settings as the service reads them from ``texts``."""
    optional = {name.lower() for name, default in defaults(frozenset(texts)).items() if default is None}
    values: dict[str, Any] = {
        name.lower(): None if not text and name.lower() in optional else text for name, text in texts.items()
    }
    settings = Settings(_env_file=None, **values)
    return {name: getattr(settings, name.lower()) for name in texts}


def defaults(names: frozenset[str]) -> dict[str, Any]:
    return {name: Settings.model_fields[name.lower()].default for name in names}


def named_variables(text: str) -> set[str]:
    """Return the variables in code spans, and those that code blocks set."""
    spans = {span.partition("=")[0] for span in _SPAN.findall(prose(text))}
    code = "\n".join(block for _, block in _BLOCK.findall(text))
    assigned = set(re.findall(r"(?:^|(?<=[\s(]))([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)=", code, re.MULTILINE))
    return {name for name in spans if _VARIABLE.fullmatch(name)} | assigned


def named_routes(text: str) -> set[tuple[str, str]]:
    """Return the methods and paths in code spans, with ``{}`` for each parameter."""
    matches = (_ROUTE.fullmatch(span) for span in _SPAN.findall(prose(text)))
    return {(match[1], _without_parameters(match[2])) for match in matches if match}


def _without_parameters(path: str) -> str:
    return re.sub(r"\{\w+(?::\w+)?\}|<\w+>", "{}", path)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    settings = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("data"))
    app = create_app(settings, stop=lambda _: None)
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    pages = {("GET", path) for path in ("/", "/docs", "/openapi.json")}
    return {(method, _without_parameters(path)) for method, path in described | pages}


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def named_paths(text: str) -> set[str]:
    """Return the words in code spans and shell commands that look like paths of this repository."""
    code = " ".join(block for language, block in _BLOCK.findall(text) if language in ("bash", "sh"))
    words = _SPAN.findall(prose(text)) + re.findall(r"[\w./@-]+", code)
    top_level = {path.name for path in ROOT.iterdir()}
    paths = set()
    for word in words:
        path = word.partition("@")[2] or word
        in_tree = path.removeprefix("./").partition("/")[0] in top_level and "/" in path
        if _PATH.fullmatch(path) and (in_tree or path.startswith("./")):
            paths.add(path.removeprefix("./"))
    return {path for path in paths if path.partition("/")[0] not in CREATED_LATER}


def test_generated_documents_are_current() -> None:
    """If this fails, run ``python scripts/document_settings.py``."""
    for path, text in document_settings.documents().items():
        assert text_of(path) == text


def test_configuration_lists_every_setting_with_its_default() -> None:
    rows = setting_rows(text_of(CONFIGURATION))
    assert rows.keys() == SETTINGS
    assert parsed(rows) == defaults(SETTINGS)


def test_example_environment_lists_every_setting_with_its_default() -> None:
    lines = _LINE.findall(text_of(EXAMPLE_ENVIRONMENT))
    assert sorted(name for name, _ in lines) == sorted(SETTINGS)
    assert parsed(dict(lines)) == defaults(SETTINGS)


def test_example_environment_changes_nothing_when_copied() -> None:
    assert [line for line in text_of(EXAMPLE_ENVIRONMENT).splitlines() if line and not line.startswith("#")] == []


def test_every_line_of_the_example_environment_is_explained_above() -> None:
    lines = text_of(EXAMPLE_ENVIRONMENT).splitlines()
    unexplained = [line for above, line in pairwise(lines) if _LINE.match(line) and not above.startswith("# ")]
    assert unexplained == []


def test_readme_has_at_most_1200_words() -> None:
    assert len(text_of(README).split()) <= 1200


def test_readme_links_to_every_page() -> None:
    pages = {name_of(path) for path in ROOT.glob("docs/*.md")}
    assert pages <= {link.partition("#")[0] for link in _LINK.findall(text_of(README))}


def test_timeout_document_lists_every_limit_in_seconds_with_its_default() -> None:
    rows = setting_rows(text_of(TIMEOUTS))
    limits = frozenset(name for name in SETTINGS if name.endswith("_SECONDS") and name != "MAX_AUDIO_SECONDS")
    assert rows.keys() == limits | {"UPLOAD_MAX_ATTEMPTS"}
    assert parsed(rows) == defaults(frozenset(rows))


def test_timeout_document_begins_with_transcription_having_none() -> None:
    first = next(line for line in text_of(TIMEOUTS).splitlines() if line and not line.startswith("#"))
    assert first.startswith("**Transcription has no timeout in any mode: it runs as long as it needs.**")


def test_timeout_document_lists_the_waits_between_rounds() -> None:
    waits = _ROUND.findall(section(text_of(TIMEOUTS), "Rounds"))
    assert [int(number) for number, _, _ in waits] == list(range(1, len(waits) + 1))
    assert tuple(int(number) * _UNITS[unit] for _, number, unit in waits) == RoundSchedule().waits


def test_api_document_lists_every_form_field_and_alias() -> None:
    fields = (*TRANSCRIPTION_FIELDS, TASK, WORD_TIMESTAMPS)
    names = {name for field in fields for name in field.names} | set(UNSUPPORTED)
    documented = {span.removesuffix("[]") for span in _SPAN.findall(section(text_of(API), "Form fields"))}
    assert names - documented == set()


def test_jobs_document_lists_every_transition_and_no_other() -> None:
    transitions = _TRANSITION.findall(section(text_of(JOBS), "States"))
    assert sorted(transitions) == sorted(
        (start.value, end.value) for start, ends in TRANSITIONS.items() for end in ends
    )


def test_jobs_document_draws_every_status() -> None:
    (drawing,) = (block for _, block in _BLOCK.findall(section(text_of(JOBS), "States")))
    assert {status for status in TRANSITIONS if status.value not in drawing} == set()


def test_architecture_names_every_module_exactly_once_in_its_list() -> None:
    listed = Counter(re.findall(r"^\| `(app/[\w/]+\.py)` \|", text_of(ARCHITECTURE), re.MULTILINE))
    modules = {name_of(path) for path in ROOT.glob("app/**/*.py") if path.name != "__init__.py"}
    assert listed.keys() == modules
    assert [module for module, count in listed.items() if count > 1] == []


def test_architecture_draws_no_module_that_does_not_exist() -> None:
    drawings = "".join(block for _, block in _BLOCK.findall(text_of(ARCHITECTURE)))
    modules = re.findall(r"\b\w+/\w+\.py\b", drawings)
    assert modules
    assert [module for module in modules if not (ROOT / "app" / module).exists()] == []


def test_architecture_points_at_names_that_exist() -> None:
    rows = [_SPAN.findall(line) for line in section(text_of(ARCHITECTURE), "Where to look").splitlines()]
    for row in rows:
        source = "".join(text_of(ROOT / span) for span in row if span.startswith("app/"))
        names = [span.rpartition(".")[2] for span in row if re.fullmatch(r"[A-Z_]\w*(\.\w+)?", span)]
        assert [name for name in names if name not in source] == []


def test_unavailable_features_are_neither_settings_nor_routes(routes: set[tuple[str, str]]) -> None:
    unavailable = paragraph(text_of(README), "Not available yet:")
    assert named_variables(unavailable) & SETTINGS == set()
    assert named_routes(unavailable)
    assert named_routes(unavailable) & routes == set()


# docs/migration.md names the routes of other services.
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "migration.md"], ids=name_of)
def test_documents_name_no_route_that_does_not_exist(document: Path, routes: set[tuple[str, str]]) -> None:
    text = text_of(document)
    if document == README:
        text = text.replace(paragraph(text, "Not available yet:"), "")
    assert named_routes(text) - routes == set()


def test_search_for_routes_finds_known_ones() -> None:
    assert ("POST", "/v1/jobs/{}/redeliver") in named_routes(text_of(JOBS)) & named_routes(text_of(TIMEOUTS))


@pytest.mark.parametrize("document", [*DOCUMENTS, EXAMPLE_ENVIRONMENT], ids=name_of)
def test_documents_name_no_variable_that_does_not_exist(document: Path) -> None:
    unknown = named_variables(text_of(document)) - SETTINGS - FOREIGN
    if document.name == "migration.md":
        unknown -= OTHER_SERVICES
    if document.name == "integrations.md":
        unknown -= PROGRAMS
    assert {name for name in unknown if not name.startswith(("AWS_", "OTEL_"))} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
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


@pytest.mark.parametrize("document", [*DOCUMENTS, EXAMPLE_ENVIRONMENT], ids=name_of)
def test_documents_name_no_path_that_does_not_exist(document: Path) -> None:
    assert [path for path in sorted(named_paths(text_of(document))) if not (ROOT / path).exists()] == []


def test_search_for_paths_finds_known_ones() -> None:
    assert named_paths(text_of(README)) >= {"start_server.sh", "run_tests.sh", "samples/hello.wav"}


@pytest.mark.parametrize("script", ["start_server.sh", "run_tests.sh"])
def test_readme_starts_with_the_two_commands(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert f"./{script}" in text_of(README).partition("## ")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_are_valid_shell(document: Path) -> None:
    for language, block in _BLOCK.findall(text_of(document)):
        if language in ("bash", "sh"):
            checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)  # noqa: S607  # bash is where its PATH says
            assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("document", [README, EXAMPLES], ids=name_of)
def test_python_examples_are_valid(document: Path) -> None:
    examples = [block for language, block in _BLOCK.findall(text_of(document)) if language == "python"]
    assert examples
    for example in examples:
        ast.parse(example)
