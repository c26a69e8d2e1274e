"""Clients that read nothing cost the scheduler a bounded amount of memory each, over both edges."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from scheduler_svc.queue import JobQueue, Lease
from stepserve import AsyncClient, SamplingParams
from stepserve.local.processes import Child, Service, Supervisor
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import CommitRow
from stepserve.protocol.step import TokenLogprobs
from tests.fault.service import make_long_checkpoint

NUM_READERS = 100
MAX_BYTES_EACH = 256 * 1024
# With their log-probabilities they are more than a megabyte of events for each reader.
NUM_TOKENS, ROW = 4000, 500
TOP = TokenLogprobs(-1.0, tuple((token, -float(token)) for token in range(20)))
WAIT_S = 120.0
CALM_S = 3.0


@dataclass
class Api:
    """A scheduler without lanes; the test is the lane."""

    child: Child
    model: str
    queue: JobQueue
    lease: Lease

    @property
    def target(self) -> str:
        return self.child.fields["grpc"]

    def used_bytes(self) -> int:
        """Memory of the process that is not shared with others."""
        rows = Path(f"/proc/{self.child.process.pid}/status").read_text().splitlines()
        [resident] = [row for row in rows if row.startswith("RssAnon:")]
        return int(resident.split()[1]) * 1024

    async def settled_bytes(self) -> int:
        """What it is once it has not grown for a while."""
        most, since_s = 0, time.monotonic()
        async with asyncio.timeout(WAIT_S):
            while time.monotonic() - since_s < CALM_S:
                if (now := self.used_bytes()) > most:
                    most, since_s = now, time.monotonic()
                await asyncio.sleep(0.1)
        return most

    async def write(self, num_jobs: int) -> None:
        """Claim so many jobs and give each its output."""
        jobs: list[str] = []
        async with asyncio.timeout(WAIT_S):
            while len(jobs) < num_jobs:
                claimed = await self.queue.claim(self.lease, "fingerprint", num_jobs)
                jobs += [job.spec.job_id for job in claimed]
        for offset in range(0, NUM_TOKENS, ROW):
            for job_id in jobs:
                row = CommitRow(job_id, 0, offset, [5] * ROW, [TOP] * ROW)
                await self.queue.commit(self.lease, [row])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_checkpoint(tmp_path_factory.mktemp("stalled") / "llama")


@pytest.fixture
def process(checkpoint: Path, redis_url: str) -> Iterator[tuple[Child, str]]:
    model = f"stalled-{uuid4().hex[:8]}"
    flags = ["--roles=api", "--port=0", "--http-port=0"]
    flags += [f"--model={checkpoint}", f"--model-name={model}"]
    service = Service("api", ["scheduler_svc", *flags], {"STEPSERVE_REDIS_URL": redis_url})
    with Supervisor(threading.Event()) as supervisor:
        child = supervisor.start(service)
        child.wait_ready()
        yield child, model


@pytest.fixture
async def api(process: tuple[Child, str], redis_url: str) -> AsyncIterator[Api]:
    child, model = process
    async with JobQueue(redis_url, model) as queue:
        lease = await queue.acquire("worker", "test", 600_000)
        assert lease is not None
        yield Api(child, model, queue, lease)


async def warm_up(api: Api) -> None:
    """Have one reader read, so that whatever is made once is made."""
    sampling = SamplingParams(max_tokens=NUM_TOKENS + 1, logprobs=20)
    async with AsyncClient(api.target) as client:
        job_id = await client.submit(prompt_token_ids=[1, 2, 3], sampling=sampling)
        await api.write(1)
        num_tokens = 0
        async for event in client.attach(job_id):
            num_tokens += len(event.token_ids)
            if num_tokens == NUM_TOKENS:
                break


@asynccontextmanager
async def grpc_readers(api: Api) -> AsyncIterator[None]:
    """All follow one job, each over a connection of its own."""
    sampling = SamplingParams(max_tokens=NUM_TOKENS + 1, logprobs=20)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(api.target))
        job_id = await client.submit(prompt_token_ids=[1, 2, 3], sampling=sampling)
        await api.write(1)
        for _ in range(NUM_READERS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(api.target, options=options)
            await stack.enter_async_context(channel)
            call = rpc.InferenceStub(channel).Attach(wire.AttachRequest(job_id=job_id))
            await call.read()
        yield


@asynccontextmanager
async def http_readers(api: Api) -> AsyncIterator[None]:
    """Each has a job of its own."""
    host, port = api.child.fields["http"].rsplit(":", 1)
    asked = {"model": api.model, "prompt": "a", "max_tokens": NUM_TOKENS + 1, "logprobs": 5}
    body = json.dumps({**asked, "stream": True})
    writers = []
    for _ in range(NUM_READERS):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        writers.append((reader, writer))
    await api.write(NUM_READERS)
    yield
    for _, writer in writers:
        writer.close()


@pytest.mark.long
@pytest.mark.parametrize("readers", [grpc_readers, http_readers])
async def test_a_stalled_reader_costs_little(readers: object, api: Api) -> None:
    assert callable(readers)
    await warm_up(api)
    before = await api.settled_bytes()
    async with readers(api):
        each = (await api.settled_bytes() - before) / NUM_READERS
    print(f"{each / 1024:.0f} KiB for each reader that reads nothing")
    assert each < MAX_BYTES_EACH
