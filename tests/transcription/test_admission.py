"""Who is decoded next, and how a short request passes the long ones by."""

from __future__ import annotations

import pytest

from app.transcription.admission import DECODERS, Admission, Entry, Ticket

pytestmark = pytest.mark.anyio


def entry(ticket: Ticket) -> Entry | None:
    return ticket.entry.result() if ticket.entry.done() else None


async def test_three_are_decoded_whole_and_the_next_is_peeked_at() -> None:
    door = Admission(slots=3)
    tickets = [door.queue(awaited=False) for _ in range(DECODERS + 1)]
    assert [entry(ticket) for ticket in tickets] == [Entry.WHOLE] * 3 + [Entry.PEEK, None]


async def test_resident_places_bound_what_is_decoded() -> None:
    door = Admission(slots=1)
    residents = [door.queue(awaited=False) for _ in range(5)]
    for ticket in residents:
        ticket.decoded()
    long = door.queue(awaited=False)
    assert [entry(ticket) for ticket in residents] == [Entry.WHOLE] * 3 + [Entry.PEEK, Entry.WHOLE]
    assert entry(long) is Entry.WHOLE
    residents[0].leave()
    following = [door.queue(awaited=False) for _ in range(2)]
    long.decoded()
    assert [entry(ticket) for ticket in following] == [Entry.WHOLE, Entry.PEEK]


async def test_what_turns_out_long_waits_at_its_old_place_and_lets_others_be_peeked_at() -> None:
    door = Admission(slots=1)
    residents = [door.queue(awaited=False) for _ in range(3)]
    long = door.queue(awaited=False)
    short = door.queue(awaited=False)
    assert (entry(long), entry(short)) == (Entry.PEEK, None)
    long.turned_out_long()
    assert (entry(long), entry(short)) == (None, Entry.PEEK)
    residents[0].leave()
    assert entry(long) is Entry.WHOLE


async def test_awaited_requests_go_first_but_not_for_ever() -> None:
    door = Admission(slots=1)
    first = [door.queue(awaited=False) for _ in range(4)]
    job = door.queue(awaited=False)
    awaited = [door.queue(awaited=True) for _ in range(10)]
    order: list[Ticket] = []
    for _ in range(11):
        first.pop(0).leave()
        (let_in,) = [ticket for ticket in (job, *awaited) if entry(ticket) and ticket not in order]
        order.append(let_in)
        first.append(let_in)
    assert order[0] is awaited[0]
    assert 0 < order.index(job) <= 5


async def test_leaving_before_the_door_leaves_nothing_behind() -> None:
    door = Admission(slots=1)
    tickets = [door.queue(awaited=False) for _ in range(6)]
    tickets[-1].leave()
    for ticket in tickets:
        ticket.leave()
        ticket.leave()
    again = [door.queue(awaited=True) for _ in range(4)]
    assert [entry(ticket) for ticket in again] == [Entry.WHOLE] * 3 + [Entry.PEEK]
