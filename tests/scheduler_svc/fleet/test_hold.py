"""What a hold leaves of a worker when Redis can't be told how it ended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler_svc.fleet import hold as module
from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.lane.worker_stream import WorkerGone
from scheduler_svc.queue import Lease, Renewal, WorkerRecord
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.core.model_worker import INFO
from tests.scheduler_svc.queue.build import within


class Queue:
    """Gives leases out, and may be away when one is to be given back."""

    def __init__(self) -> None:
        self.is_away = False
        self.incarnations: list[str] = []
        self.num_renewed = 0
        self.is_kept = asyncio.Event()

    async def acquire(
        self, address: str, holder: str, ttl_ms: int, _: object, incarnation: str
    ) -> Lease:
        self.incarnations.append(incarnation)
        return Lease(address, holder, len(self.incarnations), ttl_ms)

    async def release(self, _: Lease) -> bool:
        if self.is_away:
            raise Unavailable("away")
        return True

    hand_over = release

    async def workers(self) -> list[WorkerRecord]:
        return []

    async def renew(self, _: Lease, step_us: int, num_used_blocks: int) -> Renewal:
        self.num_renewed += 1
        if self.num_renewed > 2:
            self.is_kept.set()
        return Renewal(is_ours=True, is_in_order=step_us == num_used_blocks == 0)


def replica(queue: Queue) -> Any:
    settings = SimpleNamespace(lease_ttl_s=0.06, max_batch_size=8)
    return SimpleNamespace(queue=queue, settings=settings, holder="me")


async def hold(queue: Queue, assignment: Assignment) -> None:
    stream: Any = None
    await module.hold(replica(queue), "worker", stream, INFO, assignment)


@pytest.mark.parametrize("is_away", [True, False])
async def test_what_a_lost_worker_held_goes_on_only_where_redis_was_told(
    is_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, assignment = Queue(), Assignment()

    async def lost(*_: object) -> bool:
        raise WorkerGone("hung")

    async def left(*_: object) -> bool:
        return True

    monkeypatch.setattr(module, "_drive", lost)
    queue.is_away = is_away
    with pytest.raises(WorkerGone):
        await hold(queue, assignment)
    monkeypatch.setattr(module, "_drive", left)
    await hold(queue, assignment)
    await hold(queue, assignment)
    named = INFO.incarnation
    assert queue.incarnations == [named, "" if is_away else named, named]


async def test_a_lease_is_kept_while_the_worker_is_at_a_long_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = Queue()

    async def late(*_: object) -> None:
        await queue.is_kept.wait()
        raise WorkerGone("it was asked, and that is all")

    monkeypatch.setattr(module, "take_over", late)
    with pytest.raises(WorkerGone):
        async with within():
            await hold(queue, Assignment())
    count = queue.num_renewed
    await asyncio.sleep(0.03)
    assert queue.num_renewed == count, "nobody renews it any more"
