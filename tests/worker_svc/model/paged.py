"""Driving a decoder step by step: sequences, their shuffled blocks, and the batches they make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from kvstore.blocks import num_blocks_for
from kvstore.cache import KVCache
from worker_svc.kernels import Ragged
from worker_svc.model.batch import Batch
from worker_svc.model.decoder import Decoder


@dataclass
class PagedSequence:
    """Tokens that are known in advance, computed a chunk at a time."""

    token_ids: list[int]
    row_id: int
    block_ids: list[int]
    num_computed: int = 0
    logits: list[Tensor] = field(default_factory=list)


class PagedModel:
    """A model and a cache of the blocks its sequences need, dealt out in random order."""

    def __init__(
        self, model: Decoder, prompts: Sequence[Sequence[int]], block_size: int, seed: int
    ) -> None:
        self._model = model
        self._block_size = block_size
        needs = [num_blocks_for(len(prompt), block_size) for prompt in prompts]
        self.cache = KVCache(model.cache_shape(block_size), sum(needs) + 1, model.device)
        block_ids = list(range(sum(needs) + 1))
        rng = random.Random(seed)
        rng.shuffle(block_ids)
        # Rows are shuffled too: a row's index in a step is not its row of the block tables.
        row_ids = rng.sample(range(len(prompts) + 2), len(prompts))
        self.sequences = [
            PagedSequence(list(prompt), row_id, [block_ids.pop() for _ in range(need)])
            for prompt, row_id, need in zip(prompts, row_ids, needs, strict=True)
        ]
        self._block_tables = torch.full((len(prompts) + 2, max(needs)), -1, dtype=torch.int32)
        for sequence in self.sequences:
            ids = torch.tensor(sequence.block_ids, dtype=torch.int32)
            self._block_tables[sequence.row_id, : len(ids)] = ids

    def step(self, rows: Sequence[tuple[PagedSequence, int]], sampled: str = "all") -> Tensor:
        """Compute ``num_tokens`` more of each sequence; keeps and returns the logits sampled."""
        batch = self._batch(rows, sampled)
        logits = self._model.logits(self._model.forward(batch, self.cache))
        for sequence, num_tokens in rows:
            sequence.num_computed += num_tokens
        if sampled == "all":
            parts = logits.split([num_tokens for _, num_tokens in rows])
            for (sequence, _), part in zip(rows, parts, strict=True):
                sequence.logits.append(part)
        return logits

    def _batch(self, rows: Sequence[tuple[PagedSequence, int]], sampled: str) -> Batch:
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for sequence, num_tokens in rows:
            for position in range(sequence.num_computed, sequence.num_computed + num_tokens):
                block_id = sequence.block_ids[position // self._block_size]
                token_ids.append(sequence.token_ids[position])
                positions.append(position)
                slots.append(block_id * self._block_size + position % self._block_size)
        context_lens = [sequence.num_computed + num_tokens for sequence, num_tokens in rows]
        starts = list(accumulate((num_tokens for _, num_tokens in rows), initial=0))
        ragged = Ragged(
            row_ids=_int32([sequence.row_id for sequence, _ in rows]),
            query_starts=_int32(starts),
            context_lens=_int32(context_lens),
            block_tables=self._block_tables,
            max_query_len=max(num_tokens for _, num_tokens in rows),
            max_context_len=max(context_lens),
        )
        ragged.check()
        last = torch.tensor(starts[1:], dtype=torch.int64) - 1
        wanted = {"all": torch.arange(len(token_ids)), "last": last, "none": last[:0]}
        tokens = torch.tensor(token_ids, dtype=torch.int64)
        indices = (_int32(positions), _int32(slots))
        return Batch(tokens, *indices, ragged, wanted[sampled], sum(context_lens))


def random_tokens(vocab_size: int, length: int, seed: int) -> list[int]:
    """``length`` token ids."""
    rng = random.Random(seed)
    return [rng.randrange(vocab_size) for _ in range(length)]


def _int32(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
