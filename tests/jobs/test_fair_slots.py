"""FairSlots for transfers: never more than there are, a quarter for others, and nobody is forgotten."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.jobs.fair_slots import FairSlotQueue, FairSlots


def test_one_client_takes_three_quarters_and_all_without_keys() -> None:
    places = FairSlots(8)
    for _ in range(6):
        assert not places.has_enough("a")
        places.take("a")
    assert places.has_enough("a")
    assert not places.has_enough("b")
    assert places.has_room
    nameless = FairSlots(8)
    for _ in range(8):
        assert not nameless.has_enough("")
        nameless.take("")
    assert not nameless.has_room


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=30))
def test_every_client_gets_a_slot_and_never_too_many_at_once(total: int, clients: list[tuple[str, bool]]) -> None:
    async def run() -> None:
        places = FairSlotQueue(total)
        on, done = 0, 0

        async def transfer(owner: str) -> None:
            nonlocal on, done
            async with places.slot(owner):
                on += 1
                try:
                    assert on <= total
                    await asyncio.sleep(0)
                finally:
                    on -= 1
            done += 1

        tasks = [asyncio.create_task(transfer(owner)) for owner, _ in clients]
        await asyncio.sleep(0)
        for task, (_, is_cancelled) in zip(tasks, clients, strict=True):
            if is_cancelled:
                task.cancel()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert done >= sum(not is_cancelled for _, is_cancelled in clients)
        assert (dict(places._taken), len(places._queue)) == ({}, 0)

    asyncio.run(run())
