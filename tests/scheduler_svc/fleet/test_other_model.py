"""A lane never drives a worker of another model for its shard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler_svc.fleet.assignment import Assignment
from scheduler_svc.fleet.hold import hold, worker_stream
from scheduler_svc.lane.worker_stream import WorkerGone
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.stack import worker
from tests.scheduler_svc.lane.driving import Service, service


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("other") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


@pytest.fixture
async def of(checkpoint: Path, redis_url: str) -> AsyncIterator[Service]:
    async with service(checkpoint, redis_url) as of:
        yield of


async def test_one_that_came_in_the_place_of_ours_is_not_driven(
    checkpoint: Path, of: Service
) -> None:
    """Ours answered, and was another's worker when it was greeted: the greeting names a life."""
    async with (
        worker(checkpoint, "other") as address,
        worker_stream(address, of.replica.settings) as stream,
    ):
        info = await stream.describe()
        ours = replace(info, model=of.replica.card.name, incarnation="0" * 32)
        job_id = await of.submit()
        with pytest.raises(WorkerGone, match="incarnation"):
            await hold(of.replica, address, stream, ours, Assignment())
        assert await of.queue.workers() == []
        assert (await of.job(job_id)).state == "queued"
        again = await stream.describe()
    assert again == info
