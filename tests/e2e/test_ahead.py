"""Invariant 1 where the device is behind its host: depths, launches ahead, replays, few blocks.

In each case there are jobs that end by length, by a stop token and by a stop string, greedy and
drawn ones, and some that are cancelled while steps that name them are launched and not reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from stepserve import AsyncClient, Completion, Request, SamplingParams
from tests.checkpoints import add_tokenizer, lone_check, lone_greedy, make_checkpoint
from tests.e2e.cores import assert_all_blocks_are_free, replayed_cores
from tests.e2e.stack import Stack, stack
from tests.worker_svc.step.late import LateDevice
from tests.worker_svc.step.recorded import Recordings

MAX_CONTEXT = 160
WORKER = {
    **{"dtype": "float64", "block_size": 4, "max_context": MAX_CONTEXT},
    **{"max_batch_size": 8, "max_step_tokens": 24},
}
# For all at once; and few more than one of the longest needs.
ROOMY, TIGHT = 512, 44
GREEDY = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True)
DRAWN = replace(GREEDY, temperature=0.9, seed=77)


@dataclass(frozen=True, slots=True)
class Case:
    """One way of overlapping steps."""

    depth: int
    ahead: int
    is_replayed: bool
    is_tight: bool

    @property
    def num_flying(self) -> int:
        """Steps that are launched while none is reported."""
        return min(self.depth, self.ahead + 1)


ALL = [
    Case(depth, ahead, is_replayed, is_tight)
    for depth, ahead, is_replayed, is_tight in product((1, 2, 3), (0, 1, 2), *[(False, True)] * 2)
]
# Any two of the four values come together in one of these.
PAIRS = [
    Case(1, 0, False, True),
    Case(1, 1, True, False),
    Case(1, 2, True, True),
    Case(2, 0, True, False),
    Case(2, 1, False, True),
    Case(2, 2, False, False),
    Case(3, 0, True, True),
    Case(3, 1, False, False),
    Case(3, 2, True, True),
]


@dataclass(frozen=True, slots=True)
class Work:
    """Requests, what each gives alone, and some that are to be cancelled."""

    checkpoint: Path
    asked: list[Request]
    alone: list[Completion]
    victims: list[Request]


def prompt(number: int) -> list[int]:
    return [1 + (7 * number + 13 * i * i) % 256 for i in range(3 + 9 * (number % 4))]


def stopped_by_strings(whole: list[Completion]) -> list[Request]:
    """Requests that end in the middle of these outputs, by what is written there."""
    return [
        Request(
            prompt_token_ids=prompt(number),
            sampling=replace(GREEDY, stop=[done.text[start : start + 3]]),
        )
        for number, (done, start) in enumerate(zip(whole, (6, 17), strict=True))
    ]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Work:
    """The outputs alone are those of a worker that launches nothing ahead; greedy: of transformers.

    Stop strings are cut from outputs.
    """
    checkpoint = add_tokenizer(
        make_checkpoint(tmp_path_factory.mktemp("ahead") / "llama", "llama"), 257
    )
    samplings = [
        GREEDY,
        replace(GREEDY, max_tokens=21),
        replace(GREEDY, max_tokens=34),
        replace(GREEDY, stop_token_ids=[stop_token(checkpoint)]),
        DRAWN,
        replace(DRAWN, n=2, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.3),
    ]
    asked = [
        Request(prompt_token_ids=prompt(number), sampling=sampling)
        for number, sampling in enumerate(samplings)
    ]
    victims = [
        Request(prompt_token_ids=prompt(number), sampling=replace(GREEDY, max_tokens=120))
        for number in (8, 9)
    ]

    async def run_alone() -> list[Completion]:
        async with (
            stack(
                checkpoint, redis_url, worker_settings={**WORKER, "num_blocks": ROOMY}
            ) as service,
            AsyncClient(service.target) as client,
        ):
            alone = [await client.complete(request) for request in asked]
            asked.extend(stopped_by_strings(alone[:2]))
            return [*alone, *[await client.complete(request) for request in asked[len(alone) :]]]

    alone = asyncio.run(run_alone())
    check_references(checkpoint, asked, alone)
    return Work(checkpoint, asked, alone, victims)


def stop_token(checkpoint: Path) -> int:
    return lone_greedy(checkpoint, prompt(3), 30, stop_token_ids=()).tokens[11]


def check_references(checkpoint: Path, asked: list[Request], alone: list[Completion]) -> None:
    for request, done in zip(asked, alone, strict=True):
        assert request.sampling is not None
        if request.sampling.temperature == 0:
            tokens = list(done.outputs[0].token_ids)
            assert tokens == lone_check(checkpoint, request.prompt_token_ids, tokens).tokens
    reasons = [done.outputs[0].finish_reason for done in alone]
    assert reasons == ["length", "length", "length", "stop", "length", "length", "stop", "stop"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own time limit ends it."""
    while not condition():
        await asyncio.sleep(0.001)


async def some_tokens_of_each(client: AsyncClient, job_ids: list[str], device: LateDevice) -> None:
    """Let the device go on by single steps until each has some."""
    waiting = set(job_ids)
    while waiting:
        if device.num_flying:
            device.let(1)
        await asyncio.sleep(0.002)
        for job_id in list(waiting):
            if (await client.get(job_id)).outputs[0].num_tokens >= 2:
                waiting.remove(job_id)


async def follow(client: AsyncClient, job_id: str) -> list[int]:
    token_ids: list[int] = []
    async for event in client.attach(job_id):
        assert event.offset == len(token_ids) or not event.token_ids, "gap or repeat"
        token_ids += event.token_ids
        assert event.finish is None or event.finish.reason == "cancelled"
    return token_ids


async def run(case: Case, work: Work, service: Stack, device: LateDevice) -> None:
    async with AsyncClient(service.target) as client:
        device.let(0)
        victims = [await client.submit(request) for request in work.victims]
        streams = [asyncio.create_task(follow(client, job_id)) for job_id in victims]
        others = [asyncio.create_task(client.complete(request)) for request in work.asked]
        await some_tokens_of_each(client, victims, device)
        device.let(0)
        await until(lambda: device.num_flying == case.num_flying)
        for job_id in victims:
            assert (await client.cancel(job_id)).state == "ended"
        device.let_all()
        done = await asyncio.gather(*others)
        # Its steps come after those that let the last of the others go.
        await client.complete(prompt_token_ids=[1], sampling=replace(GREEDY, max_tokens=2))
        for request, stream in zip(work.victims, streams, strict=True):
            tokens = await stream
            assert tokens == lone_check(work.checkpoint, request.prompt_token_ids, tokens).tokens
    for one, alone in zip(done, work.alone, strict=True):
        assert [(o.token_ids, o.text, o.finish_reason) for o in one.outputs] == [
            (o.token_ids, o.text, o.finish_reason) for o in alone.outputs
        ]


async def check(
    case: Case, work: Work, redis_url: str, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    device, recordings = LateDevice(), Recordings()
    device.let_all()
    device.put_in(patch)
    recordings.put_in(patch)
    worker: dict[str, Any] = {
        **WORKER,
        "num_blocks": TIGHT if case.is_tight else ROOMY,
        "launch_ahead": case.ahead,
        "cuda_graphs": case.is_replayed,
    }
    try:
        async with stack(
            work.checkpoint,
            redis_url,
            worker_settings=worker,
            max_steps_in_flight=case.depth,
            record_events_dir=str(tmp_path),
        ) as service:
            await run(case, work, service, device)
    finally:
        device.let_all()
    assert device.most_flying == case.num_flying
    assert (recordings.num_replayed > 0) == case.is_replayed
    cores = replayed_cores(tmp_path)
    assert_all_blocks_are_free(cores)
    assert (sum(core.counts.num_preemptions for _, core in cores) > 0) == case.is_tight


@pytest.mark.parametrize("case", PAIRS, ids=str)
async def test_any_two_ways_of_overlapping_give_the_lone_outputs(
    case: Case, work: Work, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check(case, work, redis_url, tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("case", [case for case in ALL if case not in PAIRS], ids=str)
async def test_every_way_of_overlapping_gives_the_lone_outputs(
    case: Case, work: Work, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check(case, work, redis_url, tmp_path, monkeypatch)
