"""A worker is killed while steps are launched that it has not reported."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from stepserve import AsyncClient, Request, SamplingParams
from stepserve.local.processes import Child, Service, Supervisor
from stepserve.protocol import step_wire
from stepserve.protocol.step import Hello, HelloReply
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.cores import assert_all_blocks_are_free, replayed_cores
from tests.e2e.oracle import OracleJob, collect, compare_all, jobs
from tests.fault.withheld import FILE

AHEAD = 2
DEPTH = AHEAD + 1
DRAWN = Request(
    prompt_token_ids=[1, 2, 3],
    sampling=SamplingParams(temperature=1.0, seed=99, max_tokens=80, ignore_eos=True),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tokenizer(
        make_checkpoint(tmp_path_factory.mktemp("launched") / "llama", "llama"), 257
    )


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor(threading.Event()) as supervisor:
        yield supervisor


def start_worker(supervisor: Supervisor, checkpoint: Path, model: str, withheld: Path) -> Child:
    """A worker that launches ahead; its device stands still unless ``withheld`` is there."""
    flags = [
        f"--model={checkpoint}",
        f"--model-name={model}",
        "--port=0",
        "--device=cpu",
        "--dtype=float64",
        "--num-threads=1",
        "--num-blocks=64",
        f"--launch-ahead={AHEAD}",
    ]
    return supervisor.start(
        Service("worker", ["tests.fault.withheld", *flags], {FILE: str(withheld)})
    )


def num_withheld(path: Path) -> int:
    """How many steps are launched and not reported."""
    return int(path.read_text()) if path.exists() else 0


async def residents(address: str) -> HelloReply:
    """What a worker holds, asked by who could drive it next."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = step_wire.WorkerStub(channel).Steps(timeout=20)  # type: ignore[no-untyped-call]
        await call.write(step_wire.encode_lane_message(Hello(2**62, "test")))
        reply = step_wire.decode_worker_message(await call.read())
        assert isinstance(reply, HelloReply)
        call.cancel()
        return reply


@pytest.mark.long
@pytest.mark.parametrize("goes_on", ["there again", "elsewhere"])
async def test_who_was_in_launched_steps_of_a_killed_worker_goes_on(
    goes_on: str, checkpoint: Path, redis_url: str, tmp_path: Path, supervisor: Supervisor
) -> None:
    model, withheld, traces = f"launched-{uuid4().hex[:8]}", tmp_path / "withheld", tmp_path / "t"
    killed = start_worker(supervisor, checkpoint, model, withheld)
    address = killed.wait_ready()["worker"]
    other = None
    if goes_on == "elsewhere":
        (unheld := tmp_path / "unheld").touch()
        other = start_worker(supervisor, checkpoint, model, unheld)
        other.wait_ready()
    settings = SchedulerSettings(
        model=str(checkpoint),
        model_name=model,
        port=0,
        workers=address if other is None else f"{address},{other.fields['worker']}",
        redis_url=redis_url,
        max_steps_in_flight=DEPTH,
        record_events_dir=str(traces),
    )
    asked = [OracleJob(job.prompt_token_ids, 80, ignore_eos=True) for job in jobs(5, 257, count=5)]
    async with scheduler(settings) as running, AsyncClient(running.address) as client:
        job_ids = [await client.submit(job.request()) for job in asked]
        drawn = await client.submit(DRAWN)
        following = [asyncio.create_task(collect(client, job_id)) for job_id in [*job_ids, drawn]]
        while num_withheld(withheld) < DEPTH:
            await asyncio.sleep(0.005)
        killed.process.send_signal(signal.SIGKILL)
        killed.process.wait()
        assert num_withheld(withheld) == DEPTH
        if other is None:
            killed.restart()
            await asyncio.to_thread(killed.wait_ready)
        *outputs, resumed = await asyncio.gather(*following)
        # After its steps nobody of the others is left in the worker.
        again = await client.complete(DRAWN)
    assert compare_all(outputs, checkpoint, asked, "float64") == 0
    assert tuple(resumed.token_ids) == again.outputs[0].token_ids
    assert (await residents((other or killed).fields["worker"])).sequences == ()
    assert_all_blocks_are_free(replayed_cores(traces))
