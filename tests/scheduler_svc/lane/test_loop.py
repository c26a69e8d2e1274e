"""Events are taken all at once; what is to be delivered stays until it is."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_svc.core.events import Committed, WorkerLost
from scheduler_svc.lane.loop import Destination, Inbox


async def test_events_are_taken_together_and_once() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    inbox.put(Committed(1))
    inbox.put(WorkerLost())
    await waiting
    assert inbox.take() == [Committed(1), WorkerLost()]
    assert inbox.take() == []


async def test_items_are_delivered_in_their_order_while_more_come() -> None:
    delivered: list[int] = []

    async def deliver(item: int) -> None:
        if item < 3:
            destination.put(item + 10)
        await asyncio.sleep(0)
        delivered.append(item)

    destination: Destination[int] = Destination(deliver)
    destination.put(1)
    destination.put(2)
    task = asyncio.create_task(destination.run())
    async with asyncio.timeout(10):
        while len(delivered) < 4:
            await asyncio.sleep(0)
        destination.put(3)
        while len(delivered) < 5:
            await asyncio.sleep(0)
    task.cancel()
    assert delivered == [1, 2, 11, 12, 3]


async def test_what_a_failure_interrupted_is_delivered_by_the_next_flush() -> None:
    delivered: list[str] = []
    failures = ["b"]

    async def deliver(item: str) -> None:
        if failures and failures[0] == item:
            failures.pop()
            raise BrokenPipeError
        delivered.append(item)

    destination: Destination[str] = Destination(deliver)
    for item in "abc":
        destination.put(item)
    with pytest.raises(BrokenPipeError):
        await destination.run()
    assert delivered == ["a"]
    await destination.flush()
    assert delivered == ["a", "b", "c"]
