"""Speakers: their labels."""

from __future__ import annotations

import pytest

from app.domain.speakers import speaker_label


@pytest.mark.parametrize(("number", "label"), [(0, "A"), (25, "Z"), (26, "AA"), (31, "AF"), (52, "BA"), (702, "AAA")])
def test_labels_are_letters_like_the_columns_of_a_table(number: int, label: str) -> None:
    assert speaker_label(number) == label
