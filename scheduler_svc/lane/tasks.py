"""Tasks that belong together: when one of them fails, all end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


class Stopped(Exception):
    """We were asked to stop."""


async def until(stop: asyncio.Event) -> None:
    """Raise Stopped once ``stop`` is set."""
    await stop.wait()
    raise Stopped


async def first_errors(tasks: Iterable[Coroutine[Any, Any, None]]) -> list[Exception]:
    """Run the tasks until one fails, which they all do in the end; return what was raised."""
    errors: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(task)
    except* Exception as group_error:
        errors = _leaves(group_error)
    return errors


def _leaves(errors: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
