"""How many may do something at once, and what becomes of the others."""

from __future__ import annotations

import asyncio

import pytest

from scheduler_svc.frontend.gate import Gate
from stepserve.protocol.errors import Exhausted


async def test_some_are_inside_some_wait_and_the_rest_is_refused() -> None:
    gate, leave = Gate(2, 3, 3600.0), asyncio.Event()
    num_inside = most_inside = 0

    async def pass_through() -> None:
        nonlocal num_inside, most_inside
        async with gate.passage():
            num_inside += 1
            most_inside = max(most_inside, num_inside)
            await leave.wait()
            num_inside -= 1

    passing = [asyncio.create_task(pass_through()) for _ in range(5)]
    while num_inside < 2:
        await asyncio.sleep(0)
    with pytest.raises(Exhausted) as caught:
        await pass_through()
    assert caught.value.retry_after_ms > 0
    passing[4].cancel()
    await asyncio.wait(passing[4:])
    passing.append(asyncio.create_task(pass_through()))
    leave.set()
    await asyncio.gather(*passing[:4], passing[5])
    assert (num_inside, most_inside) == (0, 2)


async def test_nobody_waits_too_long() -> None:
    gate = Gate(1, 10, 0.01)
    async with gate.passage():
        with pytest.raises(Exhausted):
            async with gate.passage():
                pass
    async with gate.passage():
        pass
