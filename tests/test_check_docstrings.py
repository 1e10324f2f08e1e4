"""The linter for docstrings: accepted and rejected examples."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import check_docstrings
import pytest
from check_docstrings import problems_in

if TYPE_CHECKING:
    from pathlib import Path


def function(docstring: str, *, name: str = "spoken_seconds", decorator: str = "") -> str:
    return f'{decorator}\ndef {name}():\n    """{docstring}"""\n'


@pytest.mark.parametrize(
    "docstring",
    [
        "Return the segments finished so far.",
        "Raise DiskFull if fewer than `min_free_bytes` are left.",
        "Pass the window on.",
        "PUT the result to its presigned URL.",
        "Wait until no more than one round runs.",
        "Return True if the job has so many windows that it must wait.",
    ],
)
def test_imperative_sentences_are_accepted(docstring: str) -> None:
    assert problems_in(function(docstring)) == []


@pytest.mark.parametrize(
    ("docstring", "reason"),
    [
        ("What the model found.", "opens with 'What'"),
        ("Whether anything is left.", "opens with 'Whether'"),
        ("How long it took.", "opens with 'How'"),
        ("Those that wait.", "opens with 'Those'"),
        ("Has the job forgotten.", "opens with 'Has'"),
        ("Gives the number of windows.", "imperative verb"),
        ("Returns the number of windows.", "imperative verb"),
        ("The number of windows.", "imperative verb"),
        ("``text`` in one line.", "imperative verb"),
        ("Begin anew.", "'anew'"),
        ("Stop if it is not wanted any more.", "'not wanted any more'"),
        ("Stop, as it is wanted no more.", "'no more'"),
        ("Return so many windows.", "'so many'"),
        ("Call the one who is told.", "'is told'"),
        ("Accept everything but for links.", "'but for'"),
    ],
)
def test_other_openings_and_phrases_are_rejected(docstring: str, reason: str) -> None:
    ((line, problem),) = problems_in(function(docstring))
    assert line == 3
    assert reason in problem


@pytest.mark.parametrize(
    "source",
    [
        '"""A journal of jobs."""\n',
        'class Journal:\n    """A journal of jobs."""\n',
        function("The seconds of speech.", decorator="@property"),
        function("A running service.", decorator="@pytest.fixture(scope='module')"),
        function("The longest file comes last.", name="test_order"),
    ],
)
def test_modules_classes_properties_fixtures_and_tests_can_be_nouns(source: str) -> None:
    assert problems_in(source) == []


def test_openings_are_rejected_in_modules_and_classes() -> None:
    assert [line for line, _ in problems_in('"""What is kept."""\n\nclass A:\n    """Where it is."""\n')] == [1, 4]


def test_phrases_are_rejected_in_comments_and_across_lines() -> None:
    assert [line for line, _ in problems_in("x = 1  # computed anew\n")] == [1]
    assert [line for line, _ in problems_in('"""A value that is\ntold."""\n')] == [1]


def test_command_prints_each_problem_and_fails(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text('"""A module."""\n', encoding="utf-8")
    bad = tmp_path / "bad.py"
    bad.write_text(function("Gives a number."), encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, check_docstrings.__file__, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 1
    assert checked.stdout.startswith(f"{bad}:3: ")
