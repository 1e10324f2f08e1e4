"""The diarization error rate, by which accuracy is measured and tested."""

from __future__ import annotations

import pytest

from app.domain.transcript import Turn
from benchmarks.diarization_error import DiarizationError, diarization_error


def turns(*spans: tuple[float, float, str]) -> list[Turn]:
    return [Turn(start=start, end=end, speaker=speaker) for start, end, speaker in spans]


REFERENCE = turns((0.0, 4.0, "A"), (4.0, 8.0, "B"))


def test_names_do_not_matter() -> None:
    error = diarization_error(REFERENCE, turns((0.0, 4.0, "x"), (4.0, 8.0, "y")), duration=10.0)
    assert error == DiarizationError(speech=8.0)


def test_each_kind_of_error_is_counted() -> None:
    result = turns((1.0, 5.0, "x"), (5.0, 9.0, "y"))
    error = diarization_error(REFERENCE, result, duration=10.0)
    assert error == DiarizationError(speech=8.0, missed=1.0, false_alarm=1.0, confused=1.0)
    assert error.rate == pytest.approx(3 / 8)


def test_collar_forgives_imprecise_borders() -> None:
    result = turns((0.2, 4.2, "x"), (4.2, 8.2, "y"))
    assert diarization_error(REFERENCE, result, duration=10.0, collar=0.25).rate == 0.0


def test_overlap_counts_for_both() -> None:
    reference = turns((0.0, 4.0, "A"), (2.0, 4.0, "B"))
    error = diarization_error(reference, turns((0.0, 4.0, "x")), duration=4.0)
    assert error == DiarizationError(speech=6.0, missed=2.0)


def test_speakers_are_matched_to_agree_most() -> None:
    reference = turns((0.0, 5.0, "A"), (5.0, 9.0, "B"))
    result = turns((0.0, 3.0, "y"), (3.0, 9.0, "x"))
    assert diarization_error(reference, result, duration=9.0).confused == pytest.approx(2.0)
