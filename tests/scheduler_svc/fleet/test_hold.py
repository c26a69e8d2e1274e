"""What a hold leaves of a worker when Redis can't be told how it ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from scheduler_svc.fleet import hold as module
from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.lane.worker_stream import WorkerGone
from scheduler_svc.queue import Lease
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.core.model_worker import INFO


class Queue:
    """Gives leases out, and may be away when one is to be given back."""

    def __init__(self) -> None:
        self.is_away = False
        self.incarnations: list[str] = []

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


@pytest.mark.parametrize("is_away", [True, False])
async def test_what_a_lost_worker_held_goes_on_only_where_redis_was_told(
    is_away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, assignment = Queue(), Assignment()
    settings = SimpleNamespace(lease_ttl_s=1.0, max_batch_size=8)
    replica: Any = SimpleNamespace(queue=queue, settings=settings, holder="me")

    async def lost(*_: object) -> bool:
        raise WorkerGone("hung")

    async def left(*_: object) -> bool:
        return True

    async def hold() -> None:
        await module.hold(replica, "worker", Any, INFO, assignment)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_drive", lost)
    queue.is_away = is_away
    with pytest.raises(WorkerGone):
        await hold()
    monkeypatch.setattr(module, "_drive", left)
    await hold()
    await hold()
    named = INFO.incarnation
    assert queue.incarnations == [named, "" if is_away else named, named]
