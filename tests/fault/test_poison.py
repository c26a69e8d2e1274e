"""A job that crashes worker processes, among others, under ``stepserve up`` as users run it."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from scheduler_svc.queue import JobQueue
from stepserve import AsyncClient, Request, SamplingParams
from stepserve.local.ready import ready_fields
from stepserve.local.spawn import stop
from stepserve.process.tether import PIPED, tethered
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, Output, collect, compare_all
from tests.fault.poison import MARK, OFFSET, SIGNAL

MAX_WAIT_S = 900.0
NUM_TOKENS = 60
POISON = Request(
    prompt_token_ids=[5, MARK, 7], sampling=SamplingParams(max_tokens=30, ignore_eos=True)
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("poison") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


class Up:
    """A running service, and what it says on standard error."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self._errors = process, errors
        assert process.stdout is not None
        fields = next(filter(None, map(ready_fields, process.stdout)))
        self.target, self.model = fields["grpc"], fields["model"]

    def num_deaths(self, signum: signal.Signals) -> int:
        return self._errors.read_text().count(f"ended with status {-signum.value}; starting")

    def kill_a_worker(self) -> None:
        children = psutil.Process(self.process.pid).children()
        os.kill(
            next(c.pid for c in children if "tests.fault.poison" in c.cmdline()), signal.SIGKILL
        )


@contextmanager
def up(checkpoint: Path, redis_url: str, *flags: str, signum: signal.Signals) -> Iterator[Up]:
    options = [f"--model={checkpoint}", f"--model-name=poison-{os.urandom(4).hex()}", "--port=0"]
    # Torch's own need not be compiled at each start.
    options += ["--dtype=float64", "--kernels=torch", "--num-threads=1"]
    errors = checkpoint.parent / f"errors-{os.urandom(4).hex()}"
    variables = {"STEPSERVE_REDIS_URL": redis_url, SIGNAL: str(signum.value)}
    command = tethered("tests.fault.poisoned_up", "up", *options, *flags)
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **variables, **PIPED},
        ) as process,
    ):
        try:
            yield Up(process, errors)
        finally:
            stop(process, 60.0)
            print(errors.read_text())


async def run(client: AsyncClient, asked: Sequence[OracleJob]) -> tuple[Output, str, list[Output]]:
    """Run the poison among the others; what its client saw, its id, and what the others came to."""
    half = len(asked) // 2
    requests = [*(job.request() for job in asked[:half]), POISON]
    requests += [job.request() for job in asked[half:]]
    ids = await asyncio.gather(*map(client.submit, requests))
    outputs = await asyncio.gather(*(collect(client, job_id) for job_id in ids))
    return outputs.pop(half), ids[half], outputs


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("size", "num_workers", "signum"),
    [
        (8, 1, signal.SIGSEGV),
        (8, 2, signal.SIGABRT),
        (32, 1, signal.SIGSEGV),
        (256, 1, signal.SIGSEGV),
    ],
)
async def test_it_is_convicted_and_nobody_else_is_harmed(
    checkpoint: Path, redis_url: str, size: int, num_workers: int, signum: signal.Signals
) -> None:
    asked = [
        OracleJob([1 + i % 190, 3 + i // 190, 5], NUM_TOKENS, ignore_eos=True)
        for i in range(size - 1)
    ]
    flags = [f"--workers={num_workers}", f"--max-batch-size={size}", "--num-blocks=2048"]
    with up(checkpoint, redis_url, *flags, signum=signum) as service:
        async with (
            asyncio.timeout(MAX_WAIT_S),
            AsyncClient(service.target) as client,
            JobQueue(redis_url, service.model) as queue,
        ):
            seen, job_id, outputs = await run(client, asked)
            job = await queue.job(job_id)
            assert not await queue.has_suspects()
        num_crashes = service.num_deaths(signum)
    assert compare_all(outputs, checkpoint, asked, "float64") == 0
    assert (seen.finish_reason, len(seen.token_ids)) == ("error", OFFSET)
    assert job is not None
    [output] = job.outputs
    assert output.finish is not None
    message = output.finish.message
    assert message.startswith("it can't be run: its worker crashed in step ")
    assert message.endswith(f": {signum.name}")
    assert 2 <= num_crashes <= 1 + math.ceil(math.log2(size)) + 2


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_who_kills_a_worker_from_outside_accuses_nobody(
    checkpoint: Path, redis_url: str
) -> None:
    asked = [OracleJob([3 + i, 4, 5], 400, ignore_eos=True) for i in range(6)]
    with up(checkpoint, redis_url, "--num-blocks=512", signum=signal.SIGSEGV) as service:
        async with (
            asyncio.timeout(MAX_WAIT_S),
            AsyncClient(service.target) as client,
            JobQueue(redis_url, service.model) as queue,
        ):
            ids = [await client.submit(job.request()) for job in asked]
            tasks = [asyncio.create_task(collect(client, job_id)) for job_id in ids]
            for num_tokens in (5, 100):
                while (await client.get(ids[-1])).outputs[0].num_tokens < num_tokens:
                    await asyncio.sleep(0.02)
                service.kill_a_worker()
            outputs = await asyncio.gather(*tasks)
            assert (await queue.backlog()).num_suspects == 0
        assert service.num_deaths(signal.SIGKILL) == 2
    assert compare_all(outputs, checkpoint, asked, "float64") == 0
