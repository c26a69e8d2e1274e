"""Directories as people publish them: what is loaded computes, ends and reaches as in transformers.

What their tokenizers do is tested with the scheduler's api.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from scheduler_svc.text.model_card import ModelCard
from tests.checkpoints import lone_logits, oracle
from tests.published import LAYOUTS, publish
from tests.worker_svc.model.paged import PagedModel, random_tokens
from worker_svc.kernels import select
from worker_svc.model.loading import load_model

NUM_TOKENS = 40


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_directory(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    directory = publish(tmp_path / "model", name, seed=len(name))
    card = ModelCard.load(directory)
    model = load_model(directory, "float64", "cpu", select("torch", "cpu"))
    assert (card.vocab_size, card.max_context) == (
        model.config.vocab_size,
        model.config.max_context,
    )
    assert card.max_context == context_of(directory)
    assert card.eos_token_ids == ends_of(directory)
    prompt = random_tokens(card.vocab_size, NUM_TOKENS, seed=1)
    paged = PagedModel(model, [prompt], block_size=16, seed=1)
    got = paged.step([(paged.sequences[0], NUM_TOKENS)])
    torch.testing.assert_close(got, lone_logits(directory, prompt), rtol=0, atol=1e-6)
    assert [record.getMessage() for record in caplog.records] == []


def context_of(directory: Path) -> float:
    """max_position_embeddings, or what yarn makes of the original one."""
    config = AutoConfig.from_pretrained(directory)
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        return float(rope["factor"] * rope["original_max_position_embeddings"])
    assert rope["rope_type"] in ("default", "llama3")
    return float(config.max_position_embeddings)


def ends_of(directory: Path) -> set[int]:
    """The ids that transformers' generate stops at."""
    ids = oracle(directory, "float64").generation_config.eos_token_id
    assert ids is not None
    return {ids} if isinstance(ids, int) else set(ids)
