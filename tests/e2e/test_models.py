"""Two models behind one service: each gives what it gives alone, whatever becomes of the other."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from openai import AsyncOpenAI, NotFoundError

from scheduler_svc.queue import JobQueue
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient, Client, InvalidRequest, NotFound, Request
from stepserve.local.serving import serve
from tests.checkpoints import VARIANTS, add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, collect, compare_all, jobs
from tests.e2e.stack import worker
from tests.e2e.test_faults import started, until
from tests.e2e.test_processes import children, follow, wait_for_tokens, wait_until

SIZES = {"llama": 257, "llama-single-kv-tied": 509}


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    checkpoint: Path

    def requests(self, asked: Sequence[OracleJob]) -> list[Request]:
        return [replace(job.request(), model=self.name) for job in asked]

    def jobs(self, seed: int, max_tokens: int | None = None, count: int = 8) -> list[OracleJob]:
        asked = jobs(seed, SIZES[self.checkpoint.name], count)
        if max_tokens is None:
            return asked
        return [OracleJob(job.prompt_token_ids, max_tokens, ignore_eos=True) for job in asked]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for variant, size in SIZES.items():
        assert VARIANTS[variant]().vocab_size == size
        add_tokenizer(make_checkpoint(root / variant, variant, seed=7), size)
    return [root / variant for variant in SIZES]


@pytest.fixture
def models(checkpoints: list[Path]) -> list[Model]:
    """Under names of this test's own, so that one Redis serves many."""
    return [Model(f"{path.name}-{uuid4().hex[:8]}", path) for path in checkpoints]


@dataclass(frozen=True, slots=True)
class Service:
    target: str
    http: str
    queues: Sequence[JobQueue]


@asynccontextmanager
async def serving(
    models: Sequence[Model], redis_url: str, addresses: Sequence[str]
) -> AsyncIterator[Service]:
    settings = SchedulerSettings(
        model=[f"{model.name}={model.checkpoint}" for model in models],
        port=0,
        http_port=0,
        workers=",".join(addresses),
        redis_url=redis_url,
    )
    async with scheduler(settings) as running:
        yield Service(running.address, running.http_address, list(running.queues.values()))


async def driven(queue: JobQueue) -> dict[str, int]:
    """The epochs of the leases that are good now, by worker."""
    return {record.worker_id: record.epoch for record in await queue.workers()}


async def test_each_gives_what_it_gives_alone_when_a_worker_of_one_is_lost(
    models: list[Model], redis_url: str
) -> None:
    one, other = models
    asked = [one.jobs(3, 100, 6), other.jobs(4, 100, 6)]
    async with AsyncExitStack() as stack:
        of_one = await stack.enter_async_context(worker(one.checkpoint, one.name))
        lost_worker = AsyncExitStack()
        lost = await lost_worker.enter_async_context(worker(other.checkpoint, other.name))
        stays = await stack.enter_async_context(worker(other.checkpoint, other.name))
        service = await stack.enter_async_context(serving(models, redis_url, (of_one, lost, stays)))
        queue, queue_of_other = service.queues
        await until(lambda: both_driven(service.queues, [1, 2]))
        before = await driven(queue)
        assert (before.keys(), (await driven(queue_of_other)).keys()) == ({of_one}, {lost, stays})
        client = await stack.enter_async_context(AsyncClient(service.target))
        pairs = zip(models, asked, strict=True)
        requests = [request for model, some in pairs for request in model.requests(some)]
        ids = [await client.submit(request) for request in requests]
        tasks = [asyncio.create_task(collect(client, job_id)) for job_id in ids]
        await started(queue, ids[:6])
        await started(queue_of_other, ids[6:])
        await lost_worker.aclose()
        outputs = await asyncio.gather(*tasks)
        assert await driven(queue) == before, "who has not lost its worker drives it on"
        assert (await driven(queue_of_other)).keys() == {stays}
        assert {job.model for job in await client.list(model=other.name)} == {other.name}
    compare_all(outputs[:6], one.checkpoint, asked[0], "float32")
    compare_all(outputs[6:], other.checkpoint, asked[1], "float32")


async def both_driven(queues: Sequence[JobQueue], counts: list[int]) -> bool:
    return [len(await queue.workers()) for queue in queues] == counts


async def test_a_worker_that_comes_back_as_another_model_is_driven_as_that(
    models: list[Model], redis_url: str
) -> None:
    one, other = models
    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        address = await first.enter_async_context(worker(one.checkpoint, one.name))
        service = await stack.enter_async_context(serving(models, redis_url, [address]))
        client = await stack.enter_async_context(AsyncClient(service.target))
        await until(lambda: both_driven(service.queues, [1, 0]))
        waits = await client.submit(other.requests(other.jobs(5, 20, 1))[0])
        await first.aclose()
        port = int(address.rpartition(":")[2])
        await stack.enter_async_context(worker(other.checkpoint, other.name, port=port))
        asked = other.jobs(5, 20, 1)
        compare_all([await collect(client, waits)], other.checkpoint, asked, "float32")
        assert await both_driven(service.queues, [0, 1])


async def test_models_and_workers_are_told_and_http_goes_by_the_model_as_well(
    models: list[Model], redis_url: str
) -> None:
    one, other = models
    stranger = f"stranger-{uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        pairs = [(one.checkpoint, one.name), (other.checkpoint, other.name)]
        pairs.append((one.checkpoint, stranger))
        addresses = [await stack.enter_async_context(worker(*pair)) for pair in pairs]
        service = await stack.enter_async_context(serving(models, redis_url, addresses))
        client = await stack.enter_async_context(AsyncClient(service.target))
        await until(lambda: both_driven(service.queues, [1, 1]))
        assert [(m.name, m.vocab_size, m.num_workers) for m in await client.models()] == [
            (one.name, 257, 1),
            (other.name, 509, 1),
        ]
        for wrong, error in (("none", NotFound), ("", InvalidRequest)):
            with pytest.raises(error, match=rf"model.*'{one.name}', '{other.name}' are"):
                await client.complete("a", model=wrong)
        await check_http(service, models)

        async def told() -> bool:
            found = [w for w in await client.workers() if w.worker_id in addresses[:2]]
            idle = [w for w in found if w.driver and w.num_free_blocks == w.num_blocks]
            return len([w for w in idle if w.num_recent_steps]) == 2

        await until(told)
        [known] = await client.workers(stranger)
        assert (known.worker_id, known.driver) == (addresses[2], "")
        assert known.note == f"serves {stranger}, not {one.name} or {other.name}"
        [known] = await client.workers(other.name)
        assert (known.vocab_size, known.device, known.note) == (509, "cpu", "")
        assert known.step_p50_s is not None
        assert 0 < known.step_p50_s <= (known.step_p99_s or 0.0)


async def check_http(service: Service, models: Sequence[Model]) -> None:
    """Each model has its answers; a response is found by its id, and goes on with another's."""
    base_url = f"http://{service.http}/v1"
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as openai:
        assert [m.id async for m in openai.models.list()] == [model.name for model in models]
        previous = None
        for model in models:
            [job] = model.jobs(6, 12, 1)
            done = await openai.completions.create(
                model=model.name, prompt=job.prompt_token_ids, max_tokens=12, temperature=0
            )
            assert done.model == model.name
            made = await openai.responses.create(
                model=model.name, input="a b", max_output_tokens=16, previous_response_id=previous
            )
            assert (await openai.responses.retrieve(made.id)).model == made.model == model.name
            previous = made.id
        with pytest.raises(NotFoundError, match="'none' is not served here"):
            await openai.completions.create(model="none", prompt="a")


def driven_models(client: Client) -> set[str]:
    return {worker.model for worker in client.workers() if worker.driver}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_up_serves_two_models_and_a_killed_worker_is_one_models_affair(
    checkpoints: list[Path],
) -> None:
    one, other = [Model(path.name, path) for path in checkpoints]
    asked = [one.jobs(3, 150, 3), other.jobs(4, 150, 3)]
    with serve(*checkpoints, num_threads=1, dtype="float32", device="cpu") as service:
        assert service.model == f"{one.name},{other.name}"
        with Client(service.target) as client:
            ids = [client.submit(r) for r in [*one.requests(asked[0]), *other.requests(asked[1])]]
            for job_id in (ids[0], ids[3]):
                wait_for_tokens(client, job_id, 3)
            victim = next(
                pid
                for pid in children(service.process.pid, "worker_svc")
                if f"--model-name={other.name}" in psutil.Process(pid).cmdline()
            )
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            outputs = follow(client, ids)
            wait_until(lambda: driven_models(client) == {one.name, other.name}, "both driven")
    compare_all(outputs[:3], one.checkpoint, asked[0], "float32")
    compare_all(outputs[3:], other.checkpoint, asked[1], "float32")
