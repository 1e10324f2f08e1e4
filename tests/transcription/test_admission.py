"""The order in which transcriptions are decoded, and how short ones overtake long ones."""

from __future__ import annotations

import pytest

from app.transcription.admission import Admission, Candidate, Grant

pytestmark = pytest.mark.anyio

DECODERS = 4


def grant(candidate: Candidate) -> Grant | None:
    return candidate.grant.result() if candidate.grant.done() else None


async def test_three_files_are_decoded_completely_and_the_next_is_previewed() -> None:
    admission = Admission(slots=3, decoders=DECODERS)
    candidates = [admission.enqueue(synchronous=False) for _ in range(DECODERS + 1)]
    assert [grant(candidate) for candidate in candidates] == [Grant.WHOLE_FILE] * 3 + [Grant.PREVIEW, None]


async def test_number_of_completely_decoded_files_is_limited() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    admitted = [admission.enqueue(synchronous=False) for _ in range(5)]
    for candidate in admitted:
        candidate.release_decoder()
    long = admission.enqueue(synchronous=False)
    assert [grant(candidate) for candidate in admitted] == [Grant.WHOLE_FILE] * 3 + [Grant.PREVIEW, Grant.WHOLE_FILE]
    assert grant(long) is Grant.WHOLE_FILE
    admitted[0].leave()
    following = [admission.enqueue(synchronous=False) for _ in range(2)]
    long.release_decoder()
    assert [grant(candidate) for candidate in following] == [Grant.WHOLE_FILE, Grant.PREVIEW]


async def test_long_file_keeps_its_queue_position_after_its_preview() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    admitted = [admission.enqueue(synchronous=False) for _ in range(3)]
    long = admission.enqueue(synchronous=False)
    short = admission.enqueue(synchronous=False)
    assert (grant(long), grant(short)) == (Grant.PREVIEW, None)
    long.requeue()
    assert (grant(long), grant(short)) == (None, Grant.PREVIEW)
    admitted[0].leave()
    assert grant(long) is Grant.WHOLE_FILE


async def test_synchronous_requests_go_first_but_not_for_ever() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    admitted = [admission.enqueue(synchronous=False) for _ in range(4)]
    job = admission.enqueue(synchronous=False)
    synchronous = [admission.enqueue(synchronous=True) for _ in range(10)]
    order: list[Candidate] = []
    for _ in range(11):
        admitted.pop(0).leave()
        (newest,) = [candidate for candidate in (job, *synchronous) if grant(candidate) and candidate not in order]
        order.append(newest)
        admitted.append(newest)
    assert order[0] is synchronous[0]
    assert 0 < order.index(job) <= 5


async def test_leaving_releases_everything_once() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    candidates = [admission.enqueue(synchronous=False) for _ in range(6)]
    candidates[-1].leave()
    for candidate in candidates:
        candidate.leave()
        candidate.leave()
    following = [admission.enqueue(synchronous=True) for _ in range(4)]
    assert [grant(candidate) for candidate in following] == [Grant.WHOLE_FILE] * 3 + [Grant.PREVIEW]


def decoded(admission: Admission, files: int, *, by_voices: bool) -> list[Candidate]:
    """Return files that were admitted and decoded one after the other."""
    candidates = []
    for _ in range(files):
        candidates.append(admission.enqueue(synchronous=False, by_voices=by_voices))
        candidates[-1].release_decoder()
    return candidates


async def test_files_that_are_only_heard_leave_their_places_to_others() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    heard = decoded(admission, 5, by_voices=True)
    waiting = admission.enqueue(synchronous=False)
    waiting.requeue()
    assert grant(waiting) is None
    for candidate in heard:
        candidate.release_file()
    assert grant(waiting) is Grant.WHOLE_FILE


async def test_number_of_files_that_are_heard_is_limited_and_others_pass_those_that_wait() -> None:
    admission = Admission(slots=1, decoders=DECODERS)
    heard = decoded(admission, 5, by_voices=True)
    for candidate in heard:
        candidate.release_file()
    waiting = admission.enqueue(synchronous=True, by_voices=True)
    assert grant(waiting) is Grant.PREVIEW
    waiting.requeue()
    plain = admission.enqueue(synchronous=False)
    assert (grant(waiting), grant(plain)) == (None, Grant.WHOLE_FILE)
    heard[0].leave()
    assert grant(waiting) is Grant.WHOLE_FILE
