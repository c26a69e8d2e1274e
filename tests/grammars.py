"""The oracle of structured outputs: transformers, its logits masked by the same library, alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from stepserve.grammars.compiler import grammar_of
from stepserve.protocol.structured import StructuredOutputs
from tests.checkpoints import EOS_TOKEN_ID, oracle


class MaskedLogits(LogitsProcessor):  # type: ignore[misc]
    """Forbids what the library does; before ``min_tokens`` also the end, unless that is all."""

    def __init__(
        self, tokenizer: LLTokenizer, asked: StructuredOutputs | None, num_prompt: int, least: int
    ) -> None:
        self._matcher = None if asked is None else LLMatcher(tokenizer, grammar_of(asked))
        self._num_prompt, self._least = num_prompt, least
        self._num_taken = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        output = input_ids[0, self._num_prompt :].tolist()
        allowed = torch.ones(scores.shape[1], dtype=torch.bool)
        if self._matcher is not None:
            assert self._matcher.consume_tokens(output[self._num_taken :]), "left the grammar"
            self._num_taken = len(output)
            mask = self._matcher.compute_bitmask()
            allowed = torch.tensor([bool(mask[i // 8] >> i % 8 & 1) for i in range(len(allowed))])
        if len(output) < self._least and allowed.sum() > allowed[EOS_TOKEN_ID].int():
            allowed[EOS_TOKEN_ID] = False
        return scores.masked_fill(~allowed, -torch.inf)


def tokenizer_of(directory: Path, vocab_size: int) -> LLTokenizer:
    """The library's own reading of a checkpoint's tokenizer."""
    text = (directory / "tokenizer.json").read_text()
    return LLTokenizer(text, n_vocab=vocab_size, eos_token=EOS_TOKEN_ID)


def lone_structured(
    directory: Path,
    prompt_ids: Sequence[int],
    max_tokens: int,
    asked: StructuredOutputs | None,
    min_tokens: int = 0,
    stop_token_ids: Collection[int] = (EOS_TOKEN_ID,),
) -> list[int]:
    """What transformers' ``generate`` gives greedily under the mask, in float64."""
    model: Any = oracle(directory, "float64")
    tokenizer = tokenizer_of(directory, model.config.vocab_size)
    masked = MaskedLogits(tokenizer, asked, len(prompt_ids), min_tokens)
    given = model.generate(
        torch.tensor([list(prompt_ids)]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=list(stop_token_ids),
        pad_token_id=EOS_TOKEN_ID,
        logits_processor=LogitsProcessorList([masked]),
    )
    output: list[int] = given[0, len(prompt_ids) :].tolist()
    return output
