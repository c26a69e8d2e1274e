"""Which workers a scheduler finds, and that it holds each of them once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from scheduler_svc.fleet.lanes import resolve
from scheduler_svc.queue import JobQueue, Order
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient, SamplingParams
from stepserve.protocol.errors import StepserveError
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.stack import worker


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (("127.0.0.1:5", "127.0.0.2:6"), {"127.0.0.1:5", "127.0.0.2:6"}),
        (("[::1]:7",), {"[::1]:7"}),
        (("no-such-host.invalid:5", "127.0.0.1:5"), {"127.0.0.1:5"}),
        (("..:5",), set()),
        ((), set()),
    ],
)
async def test_names_stand_for_addresses(addresses: tuple[str, ...], found: set[str]) -> None:
    assert await resolve(addresses) == found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lanes") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


async def test_a_worker_with_two_addresses_is_driven_once(checkpoint: Path, redis_url: str) -> None:
    model = f"twice-{uuid4().hex[:8]}"
    async with worker(checkpoint, model, host="0.0.0.0") as address:
        port = address.rpartition(":")[2]
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            redis_url=redis_url,
            workers=f"127.0.0.2:{port},127.0.0.1:{port}",
        )
        async with scheduler(settings) as running, AsyncClient(running.address) as client:
            epochs = []
            for _ in range(3):
                sampling = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
                await client.complete(prompt_token_ids=[5, 6], sampling=sampling)
                workers = await running.queue.workers()
                epochs += [w.epoch for w in workers if w.worker_id == f"127.0.0.1:{port}"]
                await asyncio.sleep(0.6)  # longer than a lane waits before it asks again
    assert len(set(epochs)) == 1, "the second lane keeps taking it from the first"


async def test_a_worker_of_another_model_is_left_alone(
    checkpoint: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(checkpoint, "other") as address:
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name=f"mine-{uuid4().hex[:8]}",
            port=0,
            redis_url=redis_url,
            workers=address,
        )
        with caplog.at_level("INFO"):
            async with scheduler(settings) as running:
                while "serves other" not in caplog.text:
                    await asyncio.sleep(0.02)
                assert await running.queue.workers() == []


async def test_jobs_outlive_another_order(checkpoint: Path, redis_url: str) -> None:
    model = f"reordered-{uuid4().hex[:8]}"
    async with worker(checkpoint, model) as address:
        settings = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            redis_url=redis_url,
            workers=address,
            max_batch_size=2,
            lease_ttl_s=1.0,
        )
        sampling = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
        async with scheduler(settings) as running, AsyncClient(running.address) as client:
            alone = await client.complete(prompt_token_ids=[5, 6], sampling=sampling)
            jobs = [
                asyncio.create_task(client.complete(prompt_token_ids=[5, 6], sampling=sampling))
                for _ in range(8)
            ]
            while await running.queue.num_queued() > 4:
                await asyncio.sleep(0.005)
            async with JobQueue(redis_url, model, order=Order(policy="fair")) as other:
                await other.adopt_order()
            for job in asyncio.as_completed(jobs):
                assert (await job).outputs[0].token_ids == alone.outputs[0].token_ids


@pytest.mark.parametrize("name", ["record_dir", "record_events_dir"])
async def test_what_cannot_be_recorded_into_is_said_at_once(
    checkpoint: Path, redis_url: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    settings = SchedulerSettings(
        model=str(checkpoint), port=0, redis_url=redis_url, **{name: str(tmp_path / "file")}
    )
    with pytest.raises(StepserveError, match="can't record into"):
        async with scheduler(settings):
            pass
