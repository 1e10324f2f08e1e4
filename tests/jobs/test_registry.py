"""The registry: pages, owners, and many threads at once."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import IllegalTransition, UnknownJob
from app.domain.job import Job, JobStatus, LiveJob, Progress
from app.jobs.registry import JobFilter, Registry
from tests.domain.strategies import unhurried
from tests.jobs.rig import a_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

QUEUED, PROCESSING, COMPLETED, FAILED, CANCELLED = JobStatus


def filled(count: int, **changes: Any) -> Registry:
    """Return a registry with the jobs ``j0``, ``j1``, … in the order of acceptance."""
    registry = Registry()
    for number in range(count):
        registry.add(a_job(id=f"j{number}", accepted_at=100.0 + number, **changes))
    return registry


def ids(jobs: Iterable[LiveJob]) -> list[str]:
    return [live.job.id for live in jobs]


def move(registry: Registry, job_id: str, status: JobStatus) -> None:
    registry.update(job_id, LiveJob.with_job, registry.get(job_id).job.moved_to(status, at=1.0))


def queued(registry: Registry) -> list[str]:
    found = [live.job.id for live in registry.live_jobs() if live.status is QUEUED]
    assert registry.queued_count == len(found)
    return found


def page(
    registry: Registry, *, owner: str = "", limit: int = 100, status: JobStatus | None = None, **more: Any
) -> list[str]:
    if status is not None:
        more["wanted"] = JobFilter(statuses=frozenset({status}))
    return ids(registry.page(owner=owner, limit=limit, **more).jobs)


def test_page_is_newest_first() -> None:
    registry = filled(4)
    assert page(registry) == ["j3", "j2", "j1", "j0"]
    assert page(registry, limit=2) == ["j3", "j2"]


def test_next_page_begins_after_the_last_job_before() -> None:
    registry = filled(5)
    assert page(registry, limit=2, after="j3") == ["j2", "j1"]
    assert page(registry, limit=2, after="j1") == ["j0"]
    assert page(registry, limit=2, after="j0") == []


def test_total_counts_all_matches_of_the_filter() -> None:
    registry = filled(5)
    move(registry, "j2", CANCELLED)
    assert registry.page(owner="", limit=2).total == 5
    assert registry.page(owner="", limit=2, after="j1").total == 5
    assert registry.page(owner="", limit=2, wanted=JobFilter(statuses=frozenset({QUEUED}))).total == 4
    assert registry.page(owner="else", limit=2).total == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["b2c3", "b2c2", "a1"]),
        ("straße", ["b2c2"]),
        ("STRASSE", ["b2c2"]),
        ("view", ["a1"]),
        ("B2", ["b2c3", "b2c2"]),
        ("c3", []),
        ("a", ["b2c2", "a1"]),
    ],
)
def test_page_is_filtered_by_name_and_beginning_of_the_id(text: str, found: list[str]) -> None:
    registry = Registry()
    for job_id, name in (("a1", "Interview.mp3"), ("b2c2", "Straße.ogg"), ("b2c3", None)):
        registry.add(a_job(id=job_id, name=name))
    assert page(registry, wanted=JobFilter(text=text)) == found
    assert registry.page(owner="", wanted=JobFilter(text=text), limit=1).total == len(found)
    queued = JobFilter(statuses=frozenset({QUEUED}), text=text)
    move(registry, "a1", CANCELLED)
    assert page(registry, wanted=queued) == [job_id for job_id in found if job_id != "a1"]
    assert registry.page(owner="", wanted=queued, limit=1).total == len(set(found) - {"a1"})


def test_page_is_filtered_by_status_and_owner() -> None:
    registry = filled(3, owner="a")
    registry.add(a_job(id="theirs", owner="b"))
    move(registry, "j1", PROCESSING)
    assert page(registry, owner="a", status=PROCESSING) == ["j1"]
    assert page(registry, owner="a", status=QUEUED) == ["j2", "j0"]
    assert page(registry, owner="a", status=COMPLETED) == []
    assert page(registry, owner="b") == ["theirs"]
    assert page(registry, owner="") == []


def test_page_continues_after_a_job_that_left_the_filter() -> None:
    registry = filled(5)
    move(registry, "j2", PROCESSING)
    assert page(registry, status=QUEUED, after="j2") == ["j1", "j0"]
    move(registry, "j4", PROCESSING)
    assert page(registry, status=QUEUED, after="j4") == ["j3", "j1", "j0"]


def test_page_continues_correctly_after_the_clock_was_set_back() -> None:
    registry = filled(2)
    registry.add(a_job(id="early", accepted_at=50.0))
    move(registry, "j1", PROCESSING)
    assert page(registry, status=QUEUED) == ["early", "j0"]
    assert page(registry, status=QUEUED, after="j1") == ["j0"]


def test_page_after_a_forgotten_job_is_rejected() -> None:
    registry = filled(3)
    registry.remove("j1")
    with pytest.raises(UnknownJob, match="j1"):
        page(registry, after="j1")


def test_page_after_a_job_of_another_owner_is_rejected() -> None:
    registry = filled(3, owner="a")
    registry.add(a_job(id="theirs", owner="b"))
    registry.add(a_job(id="waited for", owner="a", synchronous=True))
    for unknown in ("theirs", "waited for", "never was"):
        with pytest.raises(UnknownJob):
            page(registry, owner="a", after=unknown)


@unhurried
@given(st.integers(0, 12), st.integers(1, 5), st.sets(st.integers(0, 11)))
def test_pages_together_list_every_job_once(count: int, limit: int, gone: set[int]) -> None:
    registry = filled(count)
    for number in gone & set(range(count)):
        move(registry, f"j{number}", CANCELLED)
    found: list[str] = []
    while piece := page(registry, status=QUEUED, limit=limit, after=found[-1] if found else None):
        found += piece
    assert found == [f"j{number}" for number in reversed(range(count)) if number not in gone]


def test_synchronous_jobs_are_queued_but_not_listed() -> None:
    registry = filled(1)
    registry.add(a_job(id="s", synchronous=True))
    assert page(registry) == ["j0"]
    assert registry.page(owner="", limit=1).total == 1
    assert registry.counts() == {QUEUED: 1}
    assert queued(registry) == ["j0", "s"]
    assert ids(registry.live_jobs()) == ["j0", "s"]
    assert registry.get("s").job.synchronous
    with pytest.raises(UnknownJob):
        registry.find("s", owner="")


def test_job_is_found_by_its_owner_only() -> None:
    registry = filled(1, owner="a")
    assert registry.find("j0", owner="a").job.id == "j0"
    with pytest.raises(UnknownJob) as caught:
        registry.find("j0", owner="b")
    with pytest.raises(UnknownJob) as never_was:
        registry.find("j9", owner="b")
    assert str(caught.value).replace("j0", "j9") == str(never_was.value)
    assert caught.value.code == "job_not_found"


def test_unknown_job_can_be_removed_but_not_read_or_changed() -> None:
    registry = filled(0)
    with pytest.raises(UnknownJob):
        registry.get("j0")
    with pytest.raises(UnknownJob):
        registry.update("j0", LiveJob.progressed, Progress.decoded, 1.0)
    registry.remove("j0")


def test_jobs_leave_the_queue_when_they_start() -> None:
    registry = filled(3)
    move(registry, "j1", PROCESSING)
    move(registry, "j0", CANCELLED)
    assert queued(registry) == ["j2"]
    assert registry.counts() == {QUEUED: 1, PROCESSING: 1, CANCELLED: 1}


def test_job_needs_transcription_until_its_result_or_end() -> None:
    registry = filled(4)
    registry.add(a_job(id="s", synchronous=True))
    move(registry, "j1", PROCESSING)
    assert ids(registry.untranscribed()) == ["j0", "j1", "j2", "j3", "s"]
    registry.update("j1", LiveJob.with_job, replace(registry.get("j1").job, has_result=True))  # still to be delivered
    move(registry, "j2", FAILED)
    registry.remove("j3")
    assert ids(registry.untranscribed()) == ["j0", "s"]


def test_job_on_the_model_has_left_the_queue() -> None:
    registry = filled(2)
    registry.update("j0", LiveJob.progressed, Progress.on_model, at=1.0)
    assert queued(registry) == ["j1"]
    assert page(registry, status=PROCESSING) == ["j0"]
    assert registry.counts() == {QUEUED: 1, PROCESSING: 1}
    assert ids(registry.untranscribed()) == ["j0", "j1"]


def test_jobs_of_an_earlier_process_keep_their_statuses_and_order() -> None:
    delivering = replace(a_job(id="d").moved_to(PROCESSING, at=1.0), has_result=True)
    ended = replace(delivering, id="e").moved_to(COMPLETED, at=2.0)
    registry = Registry()
    for job in (ended, delivering, a_job(id="q")):
        registry.add(job)
    assert page(registry) == ["q", "d", "e"]
    assert (queued(registry), ids(registry.untranscribed())) == (["q"], ["q"])
    assert registry.counts() == {QUEUED: 1, PROCESSING: 1, COMPLETED: 1}


def test_idempotency_key_belongs_to_one_owner_until_it_is_released() -> None:
    registry = filled(1, owner="a", idempotency_key="one")
    first = registry.get("j0")
    theirs = registry.add(a_job(id="theirs", owner="b", idempotency_key="one"))
    assert (registry.with_key("one", owner="a"), registry.with_key("two", owner="a")) == (first, None)
    registry.release_key("j0")
    assert registry.with_key("one", owner="a") is None
    later = registry.add(a_job(id="later", owner="a", idempotency_key="one"))
    registry.remove("j0")  # the key is no longer its own
    assert registry.with_key("one", owner="a") == later
    registry.remove("later")
    assert registry.with_key("one", owner="a") is None
    assert registry.with_key("one", owner="b") == theirs


CHANGES: Final[tuple[Callable[[Job], Job], ...]] = (
    # Without a result there is no way back from an end.
    lambda job: job.moved_to(PROCESSING, at=1.0) if job.is_active or job.has_result else job,
    lambda job: replace(job, has_result=True),
    lambda job: job.moved_to(COMPLETED, at=2.0),
    lambda job: job.moved_to(FAILED, at=2.0),
    lambda job: job.moved_to(CANCELLED, at=2.0),
)
ON_MODEL: Final = "on the model"
FORGOTTEN: Final = "forgotten"


@unhurried
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([FORGOTTEN, ON_MODEL, *CHANGES])), max_size=40))
def test_indexes_agree_with_a_search(steps: list[tuple[int, Callable[[Job], Job] | str]]) -> None:
    """Jobs of two owners, the last of them synchronous."""
    registry = Registry()
    for number in range(6):
        registry.add(a_job(id=f"j{number}", owner="ab"[number % 2], synchronous=number == 5))
    for number, step in steps:
        job_id = f"j{number}"
        with suppress(UnknownJob, IllegalTransition):
            if step == FORGOTTEN:
                registry.remove(job_id)
            elif step == ON_MODEL:
                registry.update(job_id, LiveJob.progressed, Progress.on_model, at=1.0)
            elif callable(step):
                registry.update(job_id, LiveJob.with_job, step(registry.get(job_id).job))
    jobs = registry.live_jobs()
    listed = [live for live in jobs if not live.job.synchronous]
    assert registry.queued_count == sum(live.status is QUEUED for live in jobs)
    assert registry.untranscribed() == [live for live in jobs if live.job.needs_transcription]
    assert registry.counts() == Counter(live.status for live in listed)
    for owner in "ab":
        found = registry.page(owner=owner, limit=10)
        assert list(found.jobs) == [live for live in reversed(listed) if live.job.owner == owner]
        assert found.total == len(found.jobs)


def advanced(progress: Progress) -> Progress:
    return replace(progress, percent=progress.percent + 1)


def test_concurrent_changes_of_threads_are_not_lost() -> None:
    registry = filled(4)

    def work(number: int) -> None:
        registry.add(a_job(id=f"t{number}"))
        for _ in range(100):
            registry.update(f"j{number % 4}", LiveJob.progressed, advanced)
            registry.page(owner="", limit=10)
            registry.counts()
            registry.untranscribed()
        registry.remove(f"t{number}")

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    assert [registry.get(f"j{number}").percent for number in range(4)] == [400.0] * 4
    assert len(registry.live_jobs()) == 4
