"""Invariant 1 through a pipeline: batched, cut or killed, each output is the lone one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient, Client, Request
from stepserve.local.serving import serve
from tests.checkpoints import VARIANTS, add_tokenizer, make_checkpoint
from tests.e2e.oracle import Output, collect, collect_each, compare_all, jobs, mixed_jobs
from tests.e2e.test_processes import children, follow, slow_jobs, wait_for_tokens, wait_until
from tests.e2e.test_sampling import SAMPLINGS, tokens
from tests.worker_svc.group.threads import group
from worker_svc.server import WorkerServer
from worker_svc.settings import WorkerSettings

FAMILIES = ("llama3-rope", "mistral-window", "qwen2-window", "qwen3-layer-types")
TIGHT = {"num_blocks": 24, "block_size": 8, "dtype": "float64"}
# How a lane batches; blocks are few in each, so that sequences give way and are computed again.
WAYS: dict[str, dict[str, Any]] = {
    "chunks": {"max_step_tokens": 24},
    "depth-1": {"max_steps_in_flight": 1},
    "depth-3": {"max_steps_in_flight": 3, "max_step_tokens": 16},
    "static": {"batching": "static"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


def checkpoint_of(root: Path, variant: str) -> Path:
    directory = root / variant
    if not directory.exists():
        make_checkpoint(directory, variant, seed=6)
        add_tokenizer(directory, VARIANTS[variant]().vocab_size)
    return directory


@asynccontextmanager
async def staged(
    checkpoint: Path, redis_url: str, num_stages: int, worker: dict[str, Any], **settings: Any
) -> AsyncIterator[AsyncClient]:
    """A service whose one worker has so many stages, threads of ours; yields a client."""
    model = f"{checkpoint.name}-{uuid4().hex[:8]}"
    chosen = WorkerSettings(
        model=str(checkpoint),
        model_name=model,
        port=0,
        device="cpu",
        num_threads=1,
        pipeline_stages=num_stages,
        **worker,
    )
    with group(chosen, uuid4().hex) as (assembly, _):
        server = WorkerServer(chosen, assembly)
        address = await server.start()
        lanes = SchedulerSettings(
            model=str(checkpoint),
            model_name=model,
            port=0,
            workers=address,
            redis_url=redis_url,
            **settings,
        )
        try:
            async with scheduler(lanes) as running, AsyncClient(running.address) as client:
                while not await running.queue.workers():
                    await asyncio.sleep(0.01)
                yield client
        finally:
            await server.stop()
        assert not server.failure.done(), server.failure.result()
        assembly.runner.reset()


async def check(client: AsyncClient, checkpoint: Path, count: int = 20, seed: int = 21) -> None:
    """Jobs with shared beginnings, several outputs and priorities; one of them is cancelled."""
    asked = mixed_jobs(seed, VARIANTS[checkpoint.name]().vocab_size, count)
    endless = replace(jobs(seed, 257, 1)[0], max_tokens=150, ignore_eos=True)
    victim = await client.submit(endless.request())
    ids = [await client.submit(job.request()) for job in asked]
    outputs = asyncio.gather(
        *(collect_each(client, i, job.n) for i, job in zip(ids, asked, strict=True))
    )
    cancelled = asyncio.create_task(collect(client, victim))
    while (await client.get(victim)).outputs[0].num_tokens < 3:
        await asyncio.sleep(0.01)
    await client.cancel(victim)
    each = [output for outputs in await outputs for output in outputs]
    assert (await cancelled).finish_reason in ("cancelled", "length")
    whose = [job for job in asked for _ in range(job.n)]
    assert compare_all(each, checkpoint, whose, "float64") == 0


async def sampled(client: AsyncClient) -> list[list[tuple[int, ...]]]:
    """What each kind of sampling gives among neighbours."""
    requests = [
        Request(
            prompt_token_ids=[3, 1, 4, 1, 5],
            sampling=replace(sampling, max_tokens=24, seed=77, n=2, ignore_eos=True),
        )
        for sampling in SAMPLINGS.values()
    ]
    neighbours = [client.complete(job.request()) for job in jobs(3, 257, count=8)]
    done = await asyncio.gather(*map(client.complete, requests), *neighbours)
    return [tokens(completion) for completion in done[: len(requests)]]


async def test_a_pipeline_gives_the_lone_outputs(root: Path) -> None:
    """Over Gloo, from process to process."""
    checkpoint = checkpoint_of(root, "qwen3-layer-types")
    flags: dict[str, Any] = {**TIGHT, "num_threads": 1, "max_step_tokens": 24}
    with serve(checkpoint, pipeline_stages=2, **flags) as served:
        async with AsyncClient(served.target) as client:
            await check(client, checkpoint, count=8)


@pytest.mark.long
@pytest.mark.parametrize("variant", FAMILIES)
async def test_processes_of_every_family(root: Path, variant: str) -> None:
    checkpoint = checkpoint_of(root, variant)
    flags: dict[str, Any] = {**TIGHT, "num_threads": 1, "max_step_tokens": 24}
    drawn = []
    for num_stages in (1, 2, 3):
        with serve(checkpoint, pipeline_stages=num_stages, **flags) as served:
            async with AsyncClient(served.target) as client:
                await check(client, checkpoint)
                drawn.append(await sampled(client))
    assert drawn[1] == drawn[0]
    assert drawn[2] == drawn[0]


@pytest.mark.long
@pytest.mark.parametrize("num_stages", [2, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", FAMILIES)
async def test_every_way_over_the_families(
    root: Path, redis_url: str, variant: str, way: str, num_stages: int
) -> None:
    checkpoint = checkpoint_of(root, variant)
    settings = WAYS[way]
    worker = {**TIGHT, "batching": settings.get("batching", "continuous")}
    async with staged(checkpoint, redis_url, num_stages, worker, **settings) as client:
        await check(client, checkpoint)


def ranks(up: int) -> list[psutil.Process]:
    """The processes of the one worker, by rank; the first of all of them is their launcher."""
    [launcher] = children(up, "worker_svc")
    below = psutil.Process(launcher).children()
    below.sort(key=lambda process: " ".join(process.cmdline()).partition('"rank": ')[2])
    return [psutil.Process(launcher), *below]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=lambda signum: signum.name)
@pytest.mark.parametrize("num_stages", [2, 3])
def test_every_rank_struck_in_the_middle(
    root: Path, num_stages: int, signum: signal.Signals
) -> None:
    """Each once: all end within 5 s, none is left behind, and the texts are the lone ones."""
    checkpoint = checkpoint_of(root, "mistral-window")
    flags: dict[str, Any] = {"num_threads": 1, "dtype": "float64", "pipeline_stages": num_stages}
    asked = slow_jobs()
    with serve(checkpoint, **flags) as served, Client(served.target) as client:
        for rank in range(num_stages):
            job_ids = [client.submit(job.request()) for job in asked]
            wait_for_tokens(client, job_ids[0], 10)
            launcher, *below = ranks(served.process.pid)
            assert len(below) == num_stages
            below[rank].send_signal(signum)
            _, lives = psutil.wait_procs([launcher, *below], timeout=5.0)
            assert lives == [], f"rank {rank}"
            outputs: list[Output] = follow(client, job_ids)
            assert compare_all(outputs, checkpoint, asked, "float64") == 0
        everyone = ranks(served.process.pid)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0
        assert not any(process.is_running() for process in everyone)


@pytest.mark.long
def test_ranks_end_with_their_launcher(root: Path) -> None:
    checkpoint = checkpoint_of(root, "mistral-window")
    with serve(checkpoint, num_threads=1, pipeline_stages=2) as served:
        launcher, *below = ranks(served.process.pid)
        below[1].suspend()
        launcher.kill()
        _, lives = psutil.wait_procs(below, timeout=5.0)
        assert lives == []
        wait_until(lambda: len(children(served.process.pid, "worker_svc")) == 1, "another one")
