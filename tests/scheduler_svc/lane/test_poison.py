"""A job that crashes whatever worker runs it is found by halves, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from scheduler_svc.fleet import lanes
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerStream
from scheduler_svc.queue import JobQueue, JobSnapshot
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.suspects import MAX_LOSSES
from stepserve import AsyncClient, Request, SamplingParams
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, collect, compare_all
from tests.fault.poison import MARK, OFFSET, Poison
from tests.scheduler_svc.lane.driving import driving, service, working
from worker_svc.assembly import assemble
from worker_svc.server import WorkerServer
from worker_svc.settings import WorkerSettings

MAX_WAIT_S = 120.0
POISON = Request(
    prompt_token_ids=[5, MARK, 7], sampling=SamplingParams(max_tokens=30, ignore_eos=True)
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("poison") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane whose worker crashed is tried again soon."""
    monkeypatch.setattr(lanes, "RETRY_WAIT_S", 0.02)


@dataclass
class Reviving:
    """A worker that is started again at its address after each crash, as ``stepserve up`` does."""

    settings: WorkerSettings
    address: str = ""
    num_crashes: int = 0

    async def run(self, is_ready: asyncio.Event) -> None:
        while True:
            made = await asyncio.to_thread(assemble, self.settings, uuid4().hex)
            server = WorkerServer(self.settings, made)
            self.address = await server.start()
            port = int(self.address.rpartition(":")[2])
            self.settings = self.settings.model_copy(update={"port": port})
            is_ready.set()
            try:
                await server.failure
                self.num_crashes += 1
            finally:
                await server.stop()


@asynccontextmanager
async def reviving(checkpoint: Path, model: str) -> AsyncIterator[Reviving]:
    chosen = WorkerSettings(
        model=str(checkpoint),
        model_name=model,
        port=0,
        device="cpu",
        kernels="torch",
        num_threads=1,
        num_blocks=64,
        max_batch_size=8,
    )
    worker, is_ready = Reviving(chosen), asyncio.Event()
    task = asyncio.create_task(worker.run(is_ready))
    try:
        await is_ready.wait()
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def raise_it() -> None:
    raise RuntimeError("an illegal memory access was encountered")


async def ended(queue: JobQueue, job_id: str) -> JobSnapshot:
    while (job := await queue.job(job_id)) is None or job.state != "ended":
        await asyncio.sleep(0.01)
    return job


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_among_eight_it_ends_with_an_error_and_the_others_as_they_would_alone(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    Poison(raise_it).install(monkeypatch.setattr)
    model, asked = (
        f"poison-{uuid4().hex[:8]}",
        [OracleJob([3 + i, 4, 5], 24, ignore_eos=True) for i in range(7)],
    )
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(reviving(checkpoint, model)) for _ in range(num_workers)
        ]
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            redis_url=redis_url,
            workers=",".join(worker.address for worker in workers),
        )
        async with scheduler(settings) as running, AsyncClient(running.address) as client:
            async with asyncio.timeout(MAX_WAIT_S):
                ids = [await client.submit(job.request()) for job in asked[:4]]
                poison = await client.submit(POISON)
                ids += [await client.submit(job.request()) for job in asked[4:]]
                seen = await collect(client, poison)
                outputs = [await collect(client, job_id) for job_id in ids]
                job = await ended(running.queue, poison)
            assert not await running.queue.has_suspects()
    compare_all(outputs, checkpoint, asked, "float32")
    assert seen.finish_reason == "error"
    [output] = job.outputs
    assert output.finish is not None
    assert output.finish.message.startswith("it can't be run: its worker crashed in step ")
    assert "RuntimeError: an illegal memory access" in output.finish.message
    assert output.num_tokens == OFFSET
    num_crashes = sum(worker.num_crashes for worker in workers)
    assert 2 <= num_crashes <= 1 + math.ceil(math.log2(8)) + 2


async def test_who_hangs_a_worker_at_one_place_is_a_suspect_the_third_time(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_hung, may_go_on = threading.Event(), threading.Event()

    def hang() -> None:
        is_hung.set()
        may_go_on.wait(MAX_WAIT_S)

    async def watch(_: WorkerStream) -> None:
        while not is_hung.is_set():
            await asyncio.sleep(0.005)
        raise WorkerGone("no report for long: hung")

    Poison(hang).install(monkeypatch.setattr)
    monkeypatch.setattr(WorkerStream, "watch", watch)
    num_suspects = []
    async with service(checkpoint, redis_url) as it, working(it) as address:
        sampling = Sampling(max_tokens=30, ignore_eos=True)
        await it.queue.submit(JobSpec("hangs", it.replica.card.name, (5, MARK, 7), sampling))
        await it.submit(400)
        for _ in range(MAX_LOSSES):
            async with driving(it, address) as driven:
                assert await driven.task is False
                may_go_on.set()
            num_suspects.append((await it.queue.backlog()).num_suspects)
            is_hung.clear()
            may_go_on.clear()
    assert num_suspects == [0, 0, 2], "the other one was in each of these steps as well"


async def test_workers_that_are_told_to_end_make_no_job_that_goes_on_a_suspect(
    checkpoint: Path, redis_url: str
) -> None:
    async with service(checkpoint, redis_url) as it:
        job_id = await it.submit(400)
        for _ in range(MAX_LOSSES + 1):
            async with AsyncExitStack() as worker:
                address = await worker.enter_async_context(working(it))
                async with driving(it, address) as driven:
                    await it.further(job_id)
                    await worker.aclose()
                    assert await driven.task is False
        assert (await it.job(job_id)).state != "ended"
        assert (await it.queue.backlog()).num_suspects == 0
