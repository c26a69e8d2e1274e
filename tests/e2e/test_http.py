"""Greedy text over HTTP: what gRPC gives, and what the model alone gives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from openai.types.completion_choice import Logprobs

from stepserve import AsyncClient
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from tests.checkpoints import VARIANTS, add_tokenizer, lone_greedy, lone_logits, make_checkpoint
from tests.e2e.stack import stack

PROMPT = [5, 9, 14, 21, 30]
LONG = [7 * at % 250 + 1 for at in range(70)]
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_checkpoint(tmp_path_factory.mktemp("http") / "tiny", "llama")
    return add_tokenizer(directory, VARIANTS["llama"]().vocab_size)


async def test_greedy_text_is_grpcs_and_the_models_own(checkpoint: Path, redis_url: str) -> None:
    alone = lone_greedy(checkpoint, PROMPT, NUM_TOKENS, "float32", ())
    async with (
        stack(checkpoint, redis_url, http_port=0) as served,
        AsyncOpenAI(base_url=f"http://{served.http}/v1", api_key="none") as client,
        AsyncClient(served.target) as grpc_client,
    ):
        sampling = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
        request = Request(prompt_token_ids=PROMPT, sampling=sampling)
        events = [event async for event in grpc_client.generate(request)]
        extra = {"ignore_eos": True, "return_token_ids": True}
        asked = {"model": served.model, "prompt": PROMPT, "max_tokens": NUM_TOKENS}
        whole = await client.completions.create(
            **asked, temperature=0, logprobs=0, extra_body=extra
        )
        chunks = await client.completions.create(
            **asked, temperature=0, stream=True, extra_body=extra
        )
        streamed = [chunk.choices[0] async for chunk in chunks]
        [choice] = whole.choices
        ids = [token_id for part in streamed for token_id in part.token_ids]
        assert choice.token_ids == ids == list(alone.tokens)
        assert ids == [token_id for event in events for token_id in event.token_ids]
        text = "".join(event.text for event in events)
        assert choice.text == "".join(part.text for part in streamed) == text
        assert choice.logprobs.token_logprobs == pytest.approx(list(alone.logprobs), abs=1e-4)


async def test_an_echos_log_probabilities_are_the_models_own_whatever_is_cached(
    checkpoint: Path, redis_url: str
) -> None:
    """Asked for as lm-evaluation-harness does, twice, of prompts that begin alike."""
    prompts = [LONG, LONG[:40], [9]]
    worker: dict[str, object] = {"dtype": "float64", "max_step_tokens": 16}
    async with (
        stack(checkpoint, redis_url, worker_settings=worker, http_port=0) as served,
        AsyncOpenAI(base_url=f"http://{served.http}/v1", api_key="none") as client,
    ):
        asked = {"model": served.model, "prompt": prompts, "max_tokens": 1, "temperature": 0}
        scored = {**asked, "logprobs": 1, "echo": True, "seed": 1234}
        neighbour = asyncio.create_task(client.completions.create(**{**asked, "max_tokens": 40}))
        answers = [await client.completions.create(**scored) for _ in range(2)]
        await neighbour
        plain = await client.completions.create(**asked)
    for answer in answers:
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        for prompt, choice in zip(prompts, answer.choices, strict=True):
            check_echo(checkpoint, prompt, choice.logprobs)
    assert plain.usage.prompt_tokens_details.cached_tokens > 0, "what was computed is found"


def check_echo(checkpoint: Path, prompt: list[int], logprobs: Logprobs) -> None:
    lone = lone_logits(checkpoint, prompt).log_softmax(-1)
    assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
    assert len(logprobs.token_logprobs) == len(logprobs.tokens) == len(prompt) + 1
    own = [float(lone[at, token_id]) for at, token_id in enumerate(prompt[1:])]
    assert logprobs.token_logprobs[1:-1] == pytest.approx(own, abs=1e-6)
    most = [max(each.values()) for each in logprobs.top_logprobs[1:]]
    assert most == pytest.approx(lone.amax(-1).tolist(), abs=1e-6)
    greedy = [value == best for value, best in zip(logprobs.token_logprobs[1:], most, strict=True)]
    likeliest = lone.argmax(-1).tolist()
    assert greedy == [*(i == best for i, best in zip(prompt[1:], likeliest, strict=False)), True]
