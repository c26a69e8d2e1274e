"""Tasks end together, and what they raised is told without its wrapping."""

from __future__ import annotations

import asyncio

from scheduler_svc.lane.tasks import Stopped, first_errors, until


async def nested() -> None:
    """Fails in two tasks of its own."""
    async with asyncio.TaskGroup() as group:
        group.create_task(failing(KeyError()))
        group.create_task(failing(ValueError()))


async def failing(error: Exception) -> None:
    raise error


async def test_all_end_with_the_first_that_fails() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    [error] = await first_errors([other(), failing(ZeroDivisionError())])
    assert isinstance(error, ZeroDivisionError)
    assert ended.is_set()


async def test_errors_of_groups_within_are_told_one_by_one() -> None:
    errors = await first_errors([nested()])
    assert [type(error) for error in errors] == [KeyError, ValueError]


async def test_who_is_asked_to_stop_stops() -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(first_errors([until(stop)]))
    await asyncio.sleep(0)
    assert not running.done()
    stop.set()
    [error] = await running
    assert isinstance(error, Stopped)
