"""Greedy text over HTTP: what gRPC gives, and what the model alone gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import AsyncOpenAI

from stepserve import AsyncClient
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from tests.checkpoints import VARIANTS, add_tokenizer, lone_greedy, make_checkpoint
from tests.e2e.stack import stack

PROMPT = [5, 9, 14, 21, 30]
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
