"""The word errors of live texts and of files, as the benchmarks count them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks.word_errors import WordErrors, beginning_said, references, word_errors, words

if TYPE_CHECKING:
    from pathlib import Path


def test_case_and_punctuation_do_not_count() -> None:
    assert words("I'm here, “Zoë” - at 9:30!") == ["i'm", "here", "zoë", "at", "9", "30"]


def test_errors_are_counted_by_kind() -> None:
    errors = word_errors(["a", "b", "c", "d", "e"], ["a", "x", "c", "e", "f"])
    assert errors == WordErrors(words=5, substituted=1, inserted=1, deleted=1)
    assert str(errors) == "60.0 (1, 1, 1)"
    assert word_errors(["a", "b"], []) == WordErrors(words=2, substituted=0, inserted=0, deleted=2)
    assert word_errors([], ["a"]).inserted == 1


def test_reference_ends_with_what_was_said() -> None:
    assert beginning_said(["a", "b", "c", "d", "e", "f"], ["a", "x", "c"]) == ["a", "b", "c"]


def test_references_belong_to_files(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"path": "a.wav", "reference": "one"}, {"path": "b.wav", "reference": "two"}, {"path": "c.wav"}]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert references(manifest, [tmp_path / "b.wav", tmp_path / "a.wav"]) == "two one"
    with pytest.raises(ValueError, match=r"no reference for .*c\.wav"):
        references(manifest, [tmp_path / "c.wav"])
