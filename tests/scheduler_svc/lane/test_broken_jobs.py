"""Whatever it is that a job breaks in a lane: it ends with a reason, its neighbours go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from scheduler_svc.core.events import Reported
from scheduler_svc.core.planner import Planner
from scheduler_svc.core.scheduler import Core
from scheduler_svc.fleet import lanes
from scheduler_svc.lane.worker_stream import WorkerStream
from scheduler_svc.queue import JobQueue, JobSnapshot
from scheduler_svc.queue.keys import Keys
from scheduler_svc.server import scheduler
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.text.stops import StopFinder
from stepserve import AsyncClient
from stepserve import SamplingParams as Asked
from stepserve.protocol.inference import Request
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.checkpoints import add_tokenizer, make_checkpoint
from tests.e2e.oracle import OracleJob, collect, compare_all
from tests.e2e.stack import stack, worker

# No other job's prompt has it.
MARK = 200
MARKED = [5, MARK, 7]
NEIGHBOURS = [OracleJob([3 + i, 4, 5], 40, ignore_eos=True) for i in range(4)]
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("broken") / "llama"
    return add_tokenizer(make_checkpoint(directory, "llama"), 257)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that failed is tried again soon."""
    monkeypatch.setattr(lanes, "RETRY_WAIT_S", 0.02)


def _break(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, is_due: Any) -> None:
    """Let a method fail where ``is_due(self, its first argument)``."""
    method = getattr(kind, name)

    def broken(self: Any, *args: Any) -> Any:
        if is_due(self, args[0]):
            raise ZeroDivisionError("it broke here")
        return method(self, *args)

    monkeypatch.setattr(kind, name, broken)


def planning(monkeypatch: pytest.MonkeyPatch) -> None:
    _break(monkeypatch, Planner, "_cached_blocks", lambda _, s: MARK in s.spec.prompt_token_ids)


def absorbing(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_due(core: Any, event: Reported) -> bool:
        residents, report = core._roster.residents, event.report
        tokens = zip(report.token_sequence_ids, report.token_offsets, strict=True)
        return any(
            offset == 3 and MARK in residents[sequence_id].spec.prompt_token_ids
            for sequence_id, offset in tokens
        )

    _break(monkeypatch, Core, "_reported", is_due)
    # The table of the core's methods is made of what they are called.
    handle = Core.handle

    def handled(self: Any, events: Any) -> Any:
        self._absorb = {**self._absorb, Reported: self._reported}
        return handle(self, events)

    monkeypatch.setattr(Core, "handle", handled)


def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_due(_: Any, command: Any) -> bool:
        return any(MARK in admission.token_ids for admission in command.admissions)

    _break(monkeypatch, WorkerStream, "_write", is_due)


def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker finds something wrong with the sequence."""
    from stepserve.protocol.errors import StepRefused
    from worker_svc.runner import Runner

    plan = Runner.plan

    def picky(self: Any, command: Any) -> Any:
        if any(MARK in admission.token_ids for admission in command.admissions):
            raise StepRefused("no such sequence")
        return plan(self, command)

    monkeypatch.setattr(Runner, "plan", picky)


async def ended(queue: JobQueue, job_id: str) -> JobSnapshot:
    while (job := await queue.job(job_id)) is None or job.state != "ended":
        await asyncio.sleep(0.01)
    return job


async def stored_end(redis_url: str, model: str, position: int) -> bytes:
    """How a job ended whose record nobody can read."""
    with Redis.from_url(redis_url) as redis:
        while not (finish := redis.hget(Keys(model).job(f"bad{position}"), "f0")):
            await asyncio.sleep(0.01)
    return finish


def finish_of(job: JobSnapshot) -> tuple[str, str]:
    finish = job.outputs[0].finish
    assert finish is not None
    return finish.reason, finish.message


async def neighbours(client: AsyncClient, asked: Request) -> tuple[str, list[Any]]:
    """Submit the marked job among its neighbours; return its id and what those came to."""
    ids = [await client.submit(job.request()) for job in NEIGHBOURS[:2]]
    marked = await client.submit(asked)
    ids += [await client.submit(job.request()) for job in NEIGHBOURS[2:]]
    return marked, [await collect(client, job_id) for job_id in ids]


OFTEN = [absorbing, refused]
SELDOM = [pytest.param(how, marks=pytest.mark.long) for how in (planning, packing)]


@pytest.mark.parametrize("how", [*OFTEN, *SELDOM])
async def test_who_breaks_a_lane_ends_and_its_neighbours_go_on(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, how: Break
) -> None:
    how(monkeypatch)
    request = Request(prompt_token_ids=MARKED, sampling=Asked(max_tokens=8, ignore_eos=True))
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        marked, outputs = await neighbours(client, request)
        job = await ended(service.queue, marked)
        again = await collect(client, await client.submit(NEIGHBOURS[0].request()))
    compare_all([*outputs, again], checkpoint, [*NEIGHBOURS, NEIGHBOURS[0]], "float32")
    reason, message = finish_of(job)
    assert reason == "error"
    assert message.startswith("it can't be run: ")
    assert job.outputs[0].num_tokens == (3 if how is absorbing else 0)


async def test_a_text_that_cannot_be_made_ends_its_output(
    checkpoint: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _break(monkeypatch, StopFinder, "feed", lambda finder, _: finder._num_tokens == 2)
    sampling = Asked(max_tokens=8, ignore_eos=True, stop=("no such text",))
    request = Request(prompt_token_ids=MARKED, sampling=sampling)
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        marked, outputs = await neighbours(client, request)
        job = await ended(service.queue, marked)
    compare_all(outputs, checkpoint, NEIGHBOURS, "float32")
    problem = "its text can't be searched for stop strings: ZeroDivisionError"
    assert finish_of(job) == ("error", problem)
    assert job.outputs[0].num_tokens == 3


async def test_an_output_that_cannot_be_written_ends(
    checkpoint: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        sampling = Sampling(max_tokens=30, ignore_eos=True)
        with Redis.from_url(redis_url) as redis:
            redis.rpush(Keys(service.model).log("marked", 0), "this is no log")
        await service.queue.submit(JobSpec("marked", service.model, MARKED, sampling))
        outputs = [await collect(client, await client.submit(job.request())) for job in NEIGHBOURS]
        with Redis.from_url(redis_url) as redis:
            finish = redis.hget(Keys(service.model).job("marked"), "f0")
    compare_all(outputs, checkpoint, NEIGHBOURS, "float32")
    assert finish is not None
    assert b'"error"' in finish
    assert "taking it anew" not in caplog.text, "the lane has failed"


async def test_stored_jobs_that_cannot_be_run_do_not_keep_the_service_from_being_ready(
    checkpoint: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = f"stored-{id(checkpoint)}"
    wrong: list[Any] = [(-1,), (2**32,), (None,), (2, "x")]
    async with JobQueue(redis_url, model) as queue:
        await queue.adopt_order()
        for position, ids in enumerate(wrong):
            sampling = Sampling(max_tokens=5, stop_token_ids=ids)
            await queue.submit(JobSpec(f"bad{position}", model, (5, 6), sampling))
    async with worker(checkpoint, model) as address:
        settings = SchedulerSettings(
            model=str(checkpoint), model_name=model, port=0, redis_url=redis_url, workers=address
        )
        async with scheduler(settings) as running, AsyncClient(running.address) as client:
            output = await collect(client, await client.submit(NEIGHBOURS[0].request()))
            for position in range(2):
                job = await ended(running.queue, f"bad{position}")
                reason, message = finish_of(job)
                assert reason == "error"
                assert "can't be sent to a worker" in message
            for position in range(2, len(wrong)):
                assert b"it can't be read" in await stored_end(redis_url, model, position)
    compare_all([output], checkpoint, NEIGHBOURS[:1], "float32")
    assert "taking it anew" not in caplog.text, "the lane has failed"
