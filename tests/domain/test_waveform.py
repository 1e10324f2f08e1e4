"""Waveforms: fewer points of the same peaks."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from app.domain.waveform import Waveform
from tests.domain.strategies import unhurried

COUNTS = st.integers(min_value=1, max_value=60)


@st.composite
def waveforms(draw: st.DrawFn) -> Waveform:
    length = draw(st.integers(min_value=0, max_value=50))
    channel = st.binary(min_size=length, max_size=length)
    return Waveform(duration=1.0, channels=tuple(draw(st.lists(channel, min_size=1, max_size=3))))


@unhurried
@given(waveforms())
def test_waveform_survives_a_round_trip_through_json(waveform: Waveform) -> None:
    assert Waveform.from_dict(json.loads(json.dumps(waveform.to_dict()))) == waveform


@unhurried
@given(waveforms(), COUNTS)
def test_points_are_the_highest_peaks_of_equal_parts(waveform: Waveform, count: int) -> None:
    points = waveform.points(count)
    for channel, reduced in zip(waveform.channels, points, strict=True):
        assert len(reduced) == min(count, len(channel))
        assert max(reduced, default=0) == max(channel, default=0)
        if count >= len(channel):
            assert bytes(reduced) == channel


def test_each_point_covers_its_part() -> None:
    assert Waveform(duration=0.3, channels=(bytes([9, 1, 2, 3, 0, 4]),)).points(3) == [[9, 3, 4]]
