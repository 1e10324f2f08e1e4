"""The manifest of the recordings: complete, with licences that allow passing them on."""

from __future__ import annotations

from typing import Final

import pytest

from tests.real.clips import CLIPS, RECORDINGS, Clip

LICENCES: Final = {"Apache-2.0", "BSD-2-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "MIT"}
TEXTS: Final = {"README.md", "manifest.json", "Apache-2.0.txt"}


def test_each_recording_is_in_the_manifest() -> None:
    assert {path.name for path in RECORDINGS.iterdir()} - TEXTS == {clip.file for clip in CLIPS}


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_recording_names_its_licence_and_authors(clip: Clip) -> None:
    assert clip.licence in LICENCES
    assert all((clip.source, clip.credit, clip.changes))


def test_recordings_are_small() -> None:
    assert sum(path.stat().st_size for path in RECORDINGS.iterdir()) < 1_000_000


def test_english_clips_are_of_several_kinds() -> None:
    groups = [clip.group for clip in CLIPS if clip.reference]
    assert len(groups) == 10
    assert set(groups) == {"en-read", "en-other", "phone"}
