"""A table of resident rows, and the same sequences as plain lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Resident, Row
from worker_svc.kernels import select
from worker_svc.step.rows import RowTable
from worker_svc.step.sampler import Choice, SampledRows, Sampler
from worker_svc.step.staging import pack

BLOCK_SIZE = 4


KERNELS = select("torch", "cpu")


LIMITS = Limits(100, 40, BLOCK_SIZE, 99, 5, 64)


def row_of(resident: Resident, num_tokens: int, new_block_ids: Sequence[int] = ()) -> Row:
    return Row(
        resident=resident,
        start=resident.num_computed,
        num_tokens=num_tokens,
        position=resident.num_tokens,
        is_sampled=num_tokens == resident.num_pending,
        num_blocks=len(resident.block_ids),
        new_block_ids=new_block_ids,
    )


class Tables:
    """A table, and the same sequences as plain lists."""

    def __init__(self) -> None:
        self.table = RowTable(LIMITS, torch.device("cpu"), KERNELS)
        self.tokens: dict[int, list[int]] = {}
        self.residents: dict[int, Resident] = {}

    def admit(self, row_id: int, tokens: list[int], sampling: Sampling, **more: int) -> Resident:
        block_ids = tuple(range(10 * row_id, 10 * row_id + 2))
        admission = Admission(
            row_id, "job", more.get("index", 0), tokens, 1, sampling, 0, block_ids
        )
        resident = Resident.of(admission, LIMITS.max_context)
        resident.row_id = row_id
        self.table.write([resident], ())
        self.tokens[row_id], self.residents[row_id] = list(tokens), resident
        return resident

    def grow(self, row_id: int, new_block_ids: list[int]) -> None:
        resident = self.residents[row_id]
        resident.block_ids += new_block_ids
        self.table.write((), [row_of(resident, 1, new_block_ids)])

    def choose(self, token_ids: dict[int, int]) -> None:
        """As the device does at the end of a step."""
        row_ids, chosen = list(token_ids), torch.tensor(list(token_ids.values()), dtype=torch.int32)
        positions = [self.residents[row_id].num_tokens for row_id in row_ids]
        sampled = SampledRows(*pack((row_ids, positions), self.table.device))
        choice = Choice(chosen, torch.ones(len(row_ids), dtype=torch.int32))
        Sampler(self.table, KERNELS).advance(choice, sampled)
        for row_id in row_ids:
            self.residents[row_id].num_tokens += 1
            self.tokens[row_id].append(token_ids[row_id])


GREEDY = Sampling(max_tokens=30, temperature=0.0)
