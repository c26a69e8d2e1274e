"""Seeded sampling through the whole service: the same job gives the same tokens in any company."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from stepserve import AsyncClient, Completion, InvalidRequest, Request, SamplingParams
from tests.checkpoints import add_tokenizer, lone_greedy, make_checkpoint
from tests.e2e.oracle import jobs
from tests.e2e.stack import stack

SAMPLINGS = {
    "plain": SamplingParams(temperature=1.0),
    "truncated": SamplingParams(temperature=0.9, top_k=20, top_p=0.8, min_p=0.02),
    "penalised": SamplingParams(
        temperature=0.8,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        repetition_penalty=1.2,
        logit_bias={7: 2.0, 9: -100.0},
        logprobs=3,
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sampling") / "qwen3-tied"
    return add_tokenizer(make_checkpoint(directory, "qwen3-tied"), 257)


def tokens(completion: Completion) -> list[tuple[int, ...]]:
    return [output.token_ids for output in completion.outputs]


@pytest.mark.parametrize("name", SAMPLINGS)
async def test_alone_and_in_a_full_batch_of_preempted_neighbours(
    checkpoint: Path, redis_url: str, name: str
) -> None:
    sampling = replace(SAMPLINGS[name], max_tokens=24, seed=1234, n=2, ignore_eos=True)
    request = Request(prompt_token_ids=[3, 1, 4, 1, 5], sampling=sampling)
    async with (
        stack(checkpoint, redis_url, worker_settings={"num_blocks": 14}) as service,
        AsyncClient(service.target) as client,
    ):
        alone = await client.complete(request)
        neighbours = [client.complete(job.request()) for job in jobs(3, 257, count=24)]
        crowded, *_ = await asyncio.gather(client.complete(request), *neighbours)
    assert tokens(alone) == tokens(crowded)
    assert len(set(tokens(alone))) == 2, "the two outputs draw different numbers"
    assert [len(output) for output in tokens(alone)] == [24, 24]


async def test_without_a_seed_runs_differ(checkpoint: Path, redis_url: str) -> None:
    request = Request(prompt_token_ids=[3, 1, 4], sampling=SamplingParams(max_tokens=16))
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        runs = [tokens(await client.complete(request)) for _ in range(2)]
    assert runs[0] != runs[1]


async def test_stop_strings_end_the_output_where_they_begin(
    checkpoint: Path, redis_url: str
) -> None:
    greedy = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    request = Request(prompt_token_ids=[11, 12, 13], sampling=greedy)
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        whole = await client.complete(request)
        stop = whole.text[10:14]
        cut = whole.text.index(stop)
        stopped = await client.complete(replace(request, sampling=replace(greedy, stop=[stop])))
        info = await client.get(stopped.job_id)
    [output] = stopped.outputs
    assert output.text == whole.text[:cut]
    assert output.finish_reason == "stop"
    assert output.token_ids == whole.outputs[0].token_ids[: len(output.token_ids)]
    assert info.outputs[0].num_tokens == len(output.token_ids)


async def test_stop_token_ids_and_eos(checkpoint: Path, redis_url: str) -> None:
    prompt = [21, 22]
    lone = lone_greedy(checkpoint, prompt, 30, "float32", ())
    stop_id = lone.tokens[8]
    sampling = SamplingParams(
        max_tokens=30, temperature=0.0, ignore_eos=True, stop_token_ids=[stop_id]
    )
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        done = await client.complete(Request(prompt_token_ids=prompt, sampling=sampling))
    end = lone.tokens.index(stop_id) + 1
    assert list(done.outputs[0].token_ids) == lone.tokens[:end]
    assert done.outputs[0].finish_reason == "stop"


async def test_the_context_limit_ends_an_output(checkpoint: Path, redis_url: str) -> None:
    prompt = [5] * 500
    async with stack(checkpoint, redis_url) as service, AsyncClient(service.target) as client:
        done = await client.complete(
            prompt_token_ids=prompt, sampling=SamplingParams(temperature=0.0, ignore_eos=True)
        )
        with pytest.raises(InvalidRequest, match=r"prompt_token_ids"):
            await client.complete(prompt_token_ids=[5] * 513)
    assert len(done.outputs[0].token_ids) == 512 - 500
    assert done.outputs[0].finish_reason == "length"
