"""Jobs that outlive the workers they were meant for: those left have another model, or no room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from scheduler_svc.frontend.output import OutputStream
from scheduler_svc.queue import JobQueue
from scheduler_svc.server import Running, scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient
from stepserve.protocol.errors import BegunAnew
from stepserve.protocol.inference import JobInfo
from stepserve.protocol.job import JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, collect, compare_all
from tests.e2e.stack import worker

LONG = OracleJob([5, 6, 7], 60, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unservable") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


@asynccontextmanager
async def served(
    checkpoint: Path, redis_url: str, model: str, options: dict[str, Any], **settings: Any
) -> AsyncIterator[Running]:
    async with worker(checkpoint, model, **options) as address:
        chosen = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            redis_url=redis_url,
            workers=address,
            **settings,
        )
        async with scheduler(chosen) as running:
            yield running


async def has_tokens(queue: JobQueue, job_id: str) -> None:
    while (job := await queue.job(job_id)) is None or job.outputs[0].num_tokens < 3:
        await asyncio.sleep(0.005)


async def ended(client: AsyncClient, job_id: str) -> JobInfo:
    while (job := await client.get(job_id)).state != "ended":
        await asyncio.sleep(0.01)
    return job


async def test_output_of_another_model_begins_anew_by_choice(
    checkpoint: Path, redis_url: str, tmp_path: Path
) -> None:
    newer = add_tokenizer(make_checkpoint(tmp_path / "newer", "llama", seed=1), 257)
    model = f"anew-{uuid4().hex[:8]}"
    async with (
        served(checkpoint, redis_url, model, {}) as running,
        AsyncClient(running.address) as client,
    ):
        job_id = await client.submit(LONG.request())
        await has_tokens(running.queue, job_id)
    options = {"on_model_change": "restart", "stranded_grace_s": 0.0}
    async with (
        served(newer, redis_url, model, {}, **options) as running,
        AsyncClient(running.address) as client,
    ):
        await ended(client, job_id)
        output = await collect(client, job_id)
    compare_all([output], newer, [LONG], "float32")


async def test_a_job_that_outgrew_its_worker_ends_with_the_limit(
    checkpoint: Path, redis_url: str
) -> None:
    model = f"outgrown-{uuid4().hex[:8]}"
    async with (
        served(checkpoint, redis_url, model, {}) as running,
        AsyncClient(running.address) as client,
    ):
        job_id = await client.submit(LONG.request())
        await has_tokens(running.queue, job_id)
    options = {"stranded_grace_s": 0.0}
    async with (
        served(checkpoint, redis_url, model, {"max_context": 32}, **options) as running,
        AsyncClient(running.address) as client,
    ):
        job = await ended(client, job_id)
    finish = job.outputs[0].finish
    assert finish is not None
    assert finish.reason == "error"
    assert finish.message == "it needs room for 63 tokens, the workers' limit is 32"


def test_who_follows_a_job_that_begins_anew_is_told() -> None:
    spec = JobSpec("a", "m", (1,), Sampling(max_tokens=9))
    stream = OutputStream(spec, 0, 0, None)
    stream.take(OutputLog(0, (5,), num_restarts=1))
    assert stream.request().num_restarts == 1
    with pytest.raises(BegunAnew):
        stream.take(OutputLog(0, (), offset=1, num_restarts=2))
    unseen = OutputStream(spec, 0, 0, None)
    unseen.take(OutputLog(0, ()))
    unseen.take(OutputLog(0, (5,), num_restarts=1))
