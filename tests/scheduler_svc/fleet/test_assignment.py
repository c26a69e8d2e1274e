"""What a task is told of its worker: to hold it, to keep it, to leave it, to end."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_svc.fleet.assignment import Assignment

AT_ONCE_S = 0.0
LONG_S = 20.0


async def test_a_worker_is_held_once_nobody_else_has_it() -> None:
    assignment = Assignment()
    assignment.keep(may_take=False)
    assert not await assignment.should_hold_within(AT_ONCE_S)
    waiting = asyncio.create_task(assignment.should_hold_within(LONG_S))
    await asyncio.sleep(0)
    assignment.keep(may_take=True)
    assert await waiting
    assert not assignment.should_leave.is_set()


async def test_it_is_left_and_may_be_held_again() -> None:
    assignment = Assignment()
    assignment.keep(may_take=True)
    assignment.leave()
    assert assignment.should_leave.is_set()
    assert not await assignment.should_hold_within(AT_ONCE_S)
    assignment.keep(may_take=True)
    assert not assignment.should_leave.is_set()
    assert await assignment.should_hold_within(AT_ONCE_S)


async def test_it_is_given_up_after_a_while() -> None:
    assignment = Assignment()
    assignment.keep(may_take=True)
    assignment.give_up_in(LONG_S)
    assert not assignment.should_leave.is_set()
    assignment.give_up_in(AT_ONCE_S)
    assert assignment.should_leave.is_set()


def test_the_time_to_give_it_up_begins_anew_where_it_is_ours_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    monkeypatch.setattr("scheduler_svc.fleet.assignment.time.monotonic", lambda: now_s)
    assignment = Assignment()
    assignment.give_up_in(2.0)
    now_s = 1.5
    assignment.keep(may_take=False)
    assignment.give_up_in(2.0)
    now_s = 3.0
    assignment.give_up_in(2.0)
    assert not assignment.should_leave.is_set()
    now_s = 3.5
    assignment.give_up_in(2.0)
    assert assignment.should_leave.is_set()


async def test_what_is_closed_holds_nothing_any_more() -> None:
    assignment = Assignment()
    assert not await assignment.closed_within(AT_ONCE_S)
    waiting = asyncio.create_task(assignment.should_hold_within(LONG_S))
    await asyncio.sleep(0)
    assignment.close()
    assert not await waiting, "who waits is woken"
    assert await assignment.closed_within(LONG_S)
    assignment.keep(may_take=True)
    assert assignment.should_leave.is_set()
    assert not await assignment.should_hold_within(AT_ONCE_S)
