"""Invariant 1 over tensor parallel ranks: batched, cut or killed, each output is the lone one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from stepserve import AsyncClient, Client
from stepserve.local.serving import serve
from tests.e2e.oracle import Output, compare_all
from tests.e2e.test_processes import follow, slow_jobs, wait_for_tokens
from tests.e2e.test_stages import TIGHT, WAYS, check, checkpoint_of, ranks, sampled, staged

pytestmark = pytest.mark.long

# Of each family one that two ranks divide.
FAMILIES = ("llama-biases", "qwen2-tied", "mistral", "qwen3-tied")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.mark.parametrize("variant", FAMILIES)
async def test_processes_of_every_family(root: Path, variant: str) -> None:
    """In one process, in two ranks, and in two stages of two ranks."""
    checkpoint = checkpoint_of(root, variant)
    flags: dict[str, Any] = {**TIGHT, "num_threads": 1, "max_step_tokens": 24}
    drawn = []
    for num_stages, num_ranks in ((1, 1), (1, 2), (2, 2)):
        parts = {"pipeline_stages": num_stages, "tensor_parallel": num_ranks}
        with serve(checkpoint, **parts, **flags) as served:
            async with AsyncClient(served.target) as client:
                await check(client, checkpoint)
                drawn.append(await sampled(client))
    assert drawn[1] == drawn[0]
    assert drawn[2] == drawn[0]


@pytest.mark.parametrize("num_stages", [1, 2])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", FAMILIES)
async def test_every_way_over_the_families(
    root: Path, redis_url: str, variant: str, way: str, num_stages: int
) -> None:
    checkpoint = checkpoint_of(root, variant)
    settings = WAYS[way]
    worker = {**TIGHT, "tensor_parallel": 2, "batching": settings.get("batching", "continuous")}
    async with staged(checkpoint, redis_url, num_stages, worker, **settings) as client:
        await check(client, checkpoint)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_stages", [1, 2])
def test_every_rank_killed_and_stopped_in_the_middle(root: Path, num_stages: int) -> None:
    """Each once, by SIGKILL and by SIGSTOP: all end within 5 s, and the texts are the lone ones."""
    checkpoint = checkpoint_of(root, "mistral")
    parts = {"pipeline_stages": num_stages, "tensor_parallel": 2}
    with serve(checkpoint, num_threads=1, dtype="float64", **parts) as served:
        for signum in (signal.SIGKILL, signal.SIGSTOP):
            for rank in range(2 * num_stages):
                _lose(served.target, served.process.pid, checkpoint, (rank, signum))
        everyone = ranks(served.process.pid)
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(30) == 0
        assert not any(process.is_running() for process in everyone)


def _lose(target: str, up: int, checkpoint: Path, rank_and_signal: tuple[int, int]) -> None:
    """Send one rank a signal while it has jobs, and follow those to their ends."""
    rank, signum = rank_and_signal
    asked = slow_jobs()
    with Client(target) as client:
        job_ids = [client.submit(job.request()) for job in asked]
        wait_for_tokens(client, job_ids[0], 10)
        launcher, *below = ranks(up)
        os.kill(below[rank].pid, signum)
        _, lives = psutil.wait_procs([launcher, *below], timeout=5.0)
        assert lives == [], f"signal {signum} of rank {rank}"
        outputs: list[Output] = follow(client, job_ids)
    assert compare_all(outputs, checkpoint, asked, "float64") == 0
