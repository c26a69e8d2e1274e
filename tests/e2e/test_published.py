"""Published directories served whole: tokens, text and stop ids are what transformers has alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from scheduler_svc.text.model_card import ModelCard
from stepserve import AsyncClient, ChatMessage, Request, SamplingParams
from tests.checkpoints import lone_greedy
from tests.e2e.stack import stack
from tests.published import LAYOUTS, publish

MAX_TOKENS = 24
PROMPT = "Once upon a time, naïve é"
MESSAGES = [ChatMessage("user", "Once upon a time")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_output_ends_where_transformers_ends_it(tmp_path: Path, layout: str) -> None:
    folder = publish(tmp_path, layout, weights=False)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    if ends is None:
        ends = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert ModelCard.load(folder).eos_token_ids == set(ends if isinstance(ends, list) else [ends])


def expected(folder: Path, prompt_ids: list[int]) -> tuple[list[int], str]:
    """Return what transformers generates after the prompt: its tokens and the text they add."""
    theirs = AutoTokenizer.from_pretrained(folder)
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    stops = ends if isinstance(ends, list) else [ends]
    tokens = lone_greedy(folder, prompt_ids, MAX_TOKENS, "float64", stops).tokens
    before, whole = (
        theirs.decode(ids, skip_special_tokens=True) for ids in (prompt_ids, prompt_ids + tokens)
    )
    assert whole.startswith(before)
    return tokens, whole[len(before) :]


@pytest.mark.parametrize(
    "layout", ["Llama-2-7b-chat-hf", "Meta-Llama-3-8B-Instruct", "Qwen2.5-0.5B-Instruct"]
)
async def test_prompts_and_chats_are_continued_as_transformers_does(
    tmp_path: Path, redis_url: str, layout: str
) -> None:
    folder = publish(tmp_path / layout, layout)
    theirs = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": message.role, "content": message.content} for message in MESSAGES]
    rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    sampling = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    asked: list[tuple[Request, list[int]]] = [
        (Request(prompt=PROMPT, sampling=sampling), theirs.encode(PROMPT)),
        (
            Request(messages=MESSAGES, sampling=sampling),
            theirs.encode(rendered, add_special_tokens=False),
        ),
    ]
    settings: dict[str, Any] = {"dtype": "float64", "max_context": 256}
    async with (
        stack(folder, redis_url, worker_settings=settings) as served,
        AsyncClient(served.target) as client,
    ):
        for request, prompt_ids in asked:
            output = (await client.complete(request)).outputs[0]
            assert (list(output.token_ids), output.text) == expected(folder, prompt_ids)
