"""The log of changes: what a client that was away has missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from app.jobs import changes as changes_module
from app.jobs.changes import Change, ChangeLog
from tests.jobs.rig import a_job

if TYPE_CHECKING:
    import pytest


def test_only_the_latest_change_of_a_job_is_kept() -> None:
    log = ChangeLog()
    first, second = a_job(id="a"), a_job(id="b")
    for job in (first, second, first):
        log.record(job)
    assert log.since(0, owner="") == [Change(2, "b"), Change(3, "a")]
    assert log.since(2, owner="") == [Change(3, "a")]
    log.record(second, is_removal=True)
    assert log.since(0, owner="") == [Change(3, "a"), Change(4, "b", is_removal=True)]
    assert log.since(log.latest, owner="") == []


def test_owners_share_numbers_but_no_changes() -> None:
    log = ChangeLog()
    log.record(a_job(id="a", owner="one"))
    log.record(a_job(id="b", owner="two"))
    log.record(a_job(id="c", synchronous=True))
    assert log.since(0, owner="one") == [Change(1, "a")]
    assert log.since(0, owner="two") == [Change(2, "b")]
    assert log.since(0, owner="three") == []
    assert log.latest == 2


def test_removals_are_bounded_and_older_numbers_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "_MOST_REMOVALS", 2)
    log = ChangeLog()
    for name in "abc":
        log.record(a_job(id=name), is_removal=True)
    assert log.since(0, owner="") is None
    assert log.since(1, owner="") == [Change(2, "b", is_removal=True), Change(3, "c", is_removal=True)]


def test_each_process_has_its_own_numbers() -> None:
    assert ChangeLog().boot_id != ChangeLog().boot_id


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans())), st.integers(0, 20))
def test_client_that_was_away_learns_the_state_of_every_changed_job(changes: list[tuple[str, bool]], seen: int) -> None:
    log = ChangeLog()
    expected = {}
    for number, (name, is_removal) in enumerate(changes, 1):
        log.record(a_job(id=name), is_removal=is_removal)
        expected[name] = Change(number, name, is_removal)
    missed = sorted((change for change in expected.values() if change.number > seen), key=lambda change: change.number)
    assert log.since(seen, owner="") == missed
