"""The registry: pages, owners, and many threads at once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import IllegalTransition, UnknownJob
from app.domain.job import Job, JobStatus
from app.jobs.store import Registry
from tests.domain.strategies import unhurried
from tests.jobs.rig import a_job

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


def filled(count: int, **changes: Any) -> Registry:
    """Jobs ``j0``, ``j1``, … in the order of their acceptance."""
    registry = Registry()
    for number in range(count):
        registry.add(a_job(id=f"j{number}", accepted_at=100.0 + number, **changes))
    return registry


def ids(jobs: Sequence[Job]) -> list[str]:
    return [job.id for job in jobs]


def page(registry: Registry, *, owner: str = "", limit: int = 100, **more: Any) -> list[str]:
    return ids(registry.page(owner=owner, limit=limit, **more).jobs)


def test_page_is_newest_first() -> None:
    registry = filled(4)
    assert page(registry) == ["j3", "j2", "j1", "j0"]
    assert page(registry, limit=2) == ["j3", "j2"]


def test_next_page_begins_after_the_last_job_of_the_one_before() -> None:
    registry = filled(5)
    assert page(registry, limit=2, after="j3") == ["j2", "j1"]
    assert page(registry, limit=2, after="j1") == ["j0"]
    assert page(registry, limit=2, after="j0") == []


def test_total_counts_what_the_filter_matches_and_not_the_page() -> None:
    registry = filled(5)
    registry.update("j2", lambda job: job.moved_to(CANCELLED, at=1.0))
    assert registry.page(owner="", limit=2).total == 5
    assert registry.page(owner="", limit=2, after="j1").total == 5
    assert registry.page(owner="", limit=2, status=QUEUED).total == 4
    assert registry.page(owner="else", limit=2).total == 0


def test_page_holds_one_status_and_one_owner_only() -> None:
    registry = filled(3, owner="a")
    registry.add(a_job(id="theirs", owner="b"))
    registry.update("j1", lambda job: job.moved_to(PROCESSING, at=1.0))
    assert page(registry, owner="a", status=PROCESSING) == ["j1"]
    assert page(registry, owner="a", status=QUEUED) == ["j2", "j0"]
    assert page(registry, owner="a", status=COMPLETED) == []
    assert page(registry, owner="b") == ["theirs"]
    assert page(registry, owner="") == []


def test_page_goes_on_after_a_job_that_has_left_the_filter() -> None:
    registry = filled(5)
    registry.update("j2", lambda job: job.moved_to(PROCESSING, at=1.0))
    assert page(registry, status=QUEUED, after="j2") == ["j1", "j0"]
    registry.update("j4", lambda job: job.moved_to(PROCESSING, at=1.0))
    assert page(registry, status=QUEUED, after="j4") == ["j3", "j1", "j0"]


def test_page_goes_on_rightly_though_the_clock_was_set_back_meanwhile() -> None:
    registry = filled(2)
    registry.add(a_job(id="early", accepted_at=50.0))
    registry.update("j1", lambda job: job.moved_to(PROCESSING, at=1.0))
    assert page(registry, status=QUEUED) == ["early", "j0"]
    assert page(registry, status=QUEUED, after="j1") == ["j0"]


def test_page_after_a_forgotten_job_is_refused() -> None:
    registry = filled(3)
    registry.remove("j1")
    with pytest.raises(UnknownJob, match="j1"):
        page(registry, after="j1")


def test_page_after_a_job_of_another_owner_is_refused_as_one_that_never_was() -> None:
    registry = filled(3, owner="a")
    registry.add(a_job(id="theirs", owner="b"))
    registry.add(a_job(id="waited for", owner="a", synchronous=True))
    for unknown in ("theirs", "waited for", "never was"):
        with pytest.raises(UnknownJob):
            page(registry, owner="a", after=unknown)


@unhurried
@given(st.integers(0, 12), st.integers(1, 5), st.sets(st.integers(0, 11)))
def test_pages_together_are_everything_once(count: int, limit: int, gone: set[int]) -> None:
    registry = filled(count)
    for number in gone & set(range(count)):
        registry.update(f"j{number}", lambda job: job.moved_to(CANCELLED, at=1.0))
    found: list[str] = []
    while piece := page(registry, status=QUEUED, limit=limit, after=found[-1] if found else None):
        found += piece
    assert found == [f"j{number}" for number in reversed(range(count)) if number not in gone]


def test_synchronous_jobs_are_in_no_list_but_wait_in_the_line() -> None:
    registry = filled(1)
    registry.add(a_job(id="s", synchronous=True))
    assert page(registry) == ["j0"]
    assert registry.page(owner="", limit=1).total == 1
    assert registry.counts() == {QUEUED: 1}
    assert registry.waiting() == ["j0", "s"]
    assert ids(registry.everything()) == ["j0", "s"]
    assert registry.get("s").synchronous
    with pytest.raises(UnknownJob):
        registry.find("s", owner="")


def test_job_is_found_by_its_owner_only() -> None:
    registry = filled(1, owner="a")
    assert registry.find("j0", owner="a").id == "j0"
    with pytest.raises(UnknownJob) as caught:
        registry.find("j0", owner="b")
    with pytest.raises(UnknownJob) as never_was:
        registry.find("j9", owner="b")
    assert str(caught.value).replace("j0", "j9") == str(never_was.value)
    assert caught.value.code == "job_not_found"


def test_unknown_job_can_neither_be_seen_nor_changed_but_removed() -> None:
    registry = filled(0)
    with pytest.raises(UnknownJob):
        registry.get("j0")
    with pytest.raises(UnknownJob):
        registry.update("j0", lambda job: job)
    registry.remove("j0")


def test_change_that_fails_changes_nothing() -> None:
    registry = filled(1)
    with pytest.raises(IllegalTransition):
        registry.update("j0", lambda job: job.moved_to(COMPLETED, at=1.0))
    assert registry.get("j0").status is QUEUED


def test_waiting_jobs_leave_the_line_when_they_start() -> None:
    registry = filled(3)
    registry.update("j1", lambda job: job.moved_to(PROCESSING, at=1.0))
    registry.update("j0", lambda job: job.moved_to(CANCELLED, at=1.0))
    assert registry.waiting() == ["j2"]
    assert registry.counts() == {QUEUED: 1, PROCESSING: 1, CANCELLED: 1}


def test_job_is_under_way_until_it_has_its_result_or_has_ended() -> None:
    registry = filled(4)
    registry.add(a_job(id="s", synchronous=True))
    registry.update("j1", lambda job: job.moved_to(PROCESSING, at=1.0))
    assert ids(registry.under_way()) == ["j0", "j1", "j2", "j3", "s"]
    registry.update("j1", lambda job: job.changed(has_result=True))  # it is still to be delivered
    registry.update("j2", lambda job: job.moved_to(FAILED, at=1.0))
    registry.remove("j3")
    assert ids(registry.under_way()) == ["j0", "s"]


def test_job_of_an_earlier_process_is_where_it_was() -> None:
    """It comes in whatever status it had, and the order is that of its acceptance."""
    delivering = a_job(id="d").moved_to(PROCESSING, at=1.0).changed(has_result=True)
    ended = delivering.changed(id="e").moved_to(COMPLETED, at=2.0)
    registry = Registry()
    for job in (ended, delivering, a_job(id="q")):
        registry.add(job)
    assert page(registry) == ["q", "d", "e"]
    assert (registry.waiting(), ids(registry.under_way())) == (["q"], ["q"])
    assert registry.counts() == {QUEUED: 1, PROCESSING: 1, COMPLETED: 1}


def test_idempotency_key_names_the_first_job_of_its_owner_until_it_is_free() -> None:
    registry = filled(1, owner="a", idempotency_key="one")
    first = registry.get("j0")
    assert registry.add(a_job(id="again", owner="a", idempotency_key="one")) is first
    assert not registry.knows("again")
    theirs = a_job(id="theirs", owner="b", idempotency_key="one")
    assert registry.add(theirs) is theirs
    assert (registry.with_key("one", owner="a"), registry.with_key("two", owner="a")) == (first, None)
    registry.release_key("j0")
    assert registry.with_key("one", owner="a") is None
    later = registry.add(a_job(id="later", owner="a", idempotency_key="one"))
    registry.remove("j0")  # whose key it is not any more
    assert registry.with_key("one", owner="a") == later
    registry.remove("later")
    assert registry.with_key("one", owner="a") is None
    assert registry.with_key("one", owner="b") == theirs


def test_revision_counts_what_has_changed_and_nothing_else() -> None:
    registry = filled(1)
    registry.update("j0", lambda job: job)
    assert registry.get("j0").revision == 0
    registry.update("j0", lambda job: job.changed(progress_percent=1.0))
    registry.update("j0", lambda job: job.moved_to(CANCELLED, at=1.0))
    assert registry.get("j0").revision == 2


CHANGES: Final[tuple[Callable[[Job], Job], ...]] = (
    # Without a result there is no way back from an end.
    lambda job: job.moved_to(PROCESSING, at=1.0) if job.is_active or job.has_result else job,
    lambda job: job.changed(has_result=True),
    lambda job: job.moved_to(COMPLETED, at=2.0),
    lambda job: job.moved_to(FAILED, at=2.0),
    lambda job: job.moved_to(CANCELLED, at=2.0),
)


@unhurried
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, *CHANGES])), max_size=40))
def test_what_is_kept_beside_the_jobs_is_what_a_search_would_find(
    steps: list[tuple[int, Callable[[Job], Job] | None]],
) -> None:
    """Jobs of two owners, the last of them a waiting client's; None forgets one."""
    registry = Registry()
    for number in range(6):
        registry.add(a_job(id=f"j{number}", owner="ab"[number % 2], synchronous=number == 5))
    for number, change in steps:
        if change is None:
            registry.remove(f"j{number}")
            continue
        with suppress(UnknownJob, IllegalTransition):
            registry.update(f"j{number}", change)
    jobs = registry.everything()
    listed = [job for job in jobs if not job.synchronous]
    assert registry.waiting() == [job.id for job in jobs if job.status is QUEUED]
    assert registry.under_way() == [job for job in jobs if job.is_active and not job.has_result]
    assert registry.counts() == Counter(job.status for job in listed)
    for owner in "ab":
        found = registry.page(owner=owner, limit=10)
        assert list(found.jobs) == [job for job in reversed(listed) if job.owner == owner]
        assert found.total == len(found.jobs)


def test_no_change_of_many_threads_is_lost() -> None:
    registry = filled(4)

    def work(number: int) -> None:
        registry.add(a_job(id=f"t{number}"))
        for _ in range(100):
            registry.update(f"j{number % 4}", lambda job: job.changed(progress_percent=job.progress_percent + 1))
            registry.page(owner="", limit=10)
            registry.counts()
            registry.waiting()
        registry.remove(f"t{number}")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert [registry.get(f"j{number}").progress_percent for number in range(4)] == [400.0] * 4
    assert len(registry.everything()) == 4
