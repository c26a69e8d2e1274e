"""One thread for all tenants, of whom none waits for all that another has."""

from __future__ import annotations

import asyncio
import threading

import pytest

from scheduler_svc.frontend import one_by_one
from scheduler_svc.frontend.one_by_one import OneByOne
from stepserve.protocol.errors import Exhausted


class Work:
    """Pieces of work that go on until they are let go, and the order in which they were begun."""

    def __init__(self, line: OneByOne) -> None:
        self._line = line
        self.begun: list[str] = []
        self.go_on = threading.Semaphore(0)

    def start(self, name: str) -> asyncio.Task[str]:
        """``name`` begins with its tenant."""
        return asyncio.create_task(self._line.run(name[0], lambda: self._do(name)))

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)

    def _do(self, name: str) -> str:
        self.begun.append(name)
        self.go_on.acquire()
        return name


@pytest.fixture
def work() -> Work:
    return Work(OneByOne("tests"))


async def test_tenants_take_turns(work: Work) -> None:
    tasks = [work.start(name) for name in ("a0", "a1", "a2", "a3", "b0", "c0", "b1")]
    await work.until_begun(1)
    work.go_on.release(len(tasks))
    assert [await task for task in tasks] == ["a0", "a1", "a2", "a3", "b0", "c0", "b1"]
    assert work.begun == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


async def test_who_has_much_is_refused_and_nobody_else(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_by_one, "MAX_WAITING_EACH", 2)
    tasks = [work.start(f"a{number}") for number in range(3)]
    await work.until_begun(1)
    with pytest.raises(Exhausted):
        await work.start("a3")
    tasks.append(work.start("b0"))
    work.go_on.release(len(tasks))
    assert await asyncio.gather(*tasks) == ["a0", "a1", "a2", "b0"]


async def test_who_goes_away_lets_the_others_go_on(work: Work) -> None:
    tasks = [work.start(name) for name in ("a0", "a1", "b0", "b1")]
    await work.until_begun(1)
    for task in tasks[:3]:  # the one that is at work, and two that wait
        task.cancel()
    await asyncio.gather(*tasks[:3], return_exceptions=True)
    assert work.begun == ["a0"], "one at a time, also where nobody wants it any more"
    work.go_on.release(2)
    assert await tasks[3] == "b1"
    assert work.begun == ["a0", "b1"]


async def test_what_work_raises_is_raised_and_keeps_nobody() -> None:
    line = OneByOne("tests")

    def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await line.run("a", fail)
