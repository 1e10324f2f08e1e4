"""Tickets are valid for one job of one owner, for a while, in one process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.tickets import Tickets
from tests.domain.strategies import unhurried

JOB = "3fa85f64-5717-4562-b3fc-2c963f66afa6"


def test_ticket_is_valid_until_it_expires() -> None:
    tickets = Tickets()
    ticket = tickets.issue(JOB, owner="a", expires_at=1000)
    assert tickets.is_valid(ticket, JOB, owner="a", now=999.9)
    assert not tickets.is_valid(ticket, JOB, owner="a", now=1000.0)


def test_ticket_is_for_one_job_of_one_owner_in_one_process() -> None:
    tickets = Tickets()
    ticket = tickets.issue(JOB, owner="a", expires_at=1000)
    assert not tickets.is_valid(ticket, f"{JOB}0", owner="a", now=0.0)
    assert not tickets.is_valid(ticket, JOB, owner="b", now=0.0)
    assert not tickets.is_valid(ticket, JOB, owner="", now=0.0)
    assert not Tickets().is_valid(ticket, JOB, owner="a", now=0.0)


@pytest.mark.parametrize("ticket", ["", ".", "1000", "1000.", "-1.x", "²000.x", f"{'9' * 5000}.x"])
def test_other_text_is_no_ticket(ticket: str) -> None:
    assert not Tickets().is_valid(ticket, JOB, owner="", now=0.0)


@unhurried
@given(st.data())
def test_no_changed_ticket_is_valid(data: st.DataObject) -> None:
    tickets = Tickets()
    ticket = tickets.issue(JOB, owner="a", expires_at=1000)
    position = data.draw(st.integers(min_value=0, max_value=len(ticket) - 1))
    character = data.draw(st.sampled_from("0123456789.-_Az"))
    changed = ticket[:position] + character + ticket[position + 1 :]
    assert tickets.is_valid(changed, JOB, owner="a", now=0.0) is (changed == ticket)


def test_nodes_with_the_same_secret_accept_the_tickets_of_each_other() -> None:
    ticket = Tickets("a shared secret").issue("job", owner="a", expires_at=2000)
    assert Tickets("a shared secret").is_valid(ticket, "job", owner="a", now=1000)
    assert not Tickets("another secret").is_valid(ticket, "job", owner="a", now=1000)
    assert not Tickets().is_valid(ticket, "job", owner="a", now=1000)
