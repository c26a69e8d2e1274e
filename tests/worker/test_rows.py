"""The resident tables: what is laid out for the model is what the sequences hold."""

from __future__ import annotations

import random

import torch

from protos.step import Admission, Sampling
from worker_svc.layout import Flat
from worker_svc.limits import Limits
from worker_svc.resident import Resident, Row
from worker_svc.rows import RowTable
from worker_svc.step.record import Columns

BLOCK_SIZE = 4
LIMITS = Limits(100, 40, BLOCK_SIZE, 99, 5, 64)


class Tables:
    """A table, and the same sequences as plain lists."""

    def __init__(self) -> None:
        self.table = RowTable(LIMITS, torch.device("cpu"))
        self.tokens: dict[int, list[int]] = {}
        self.residents: dict[int, Resident] = {}

    def admit(self, line: int, tokens: list[int], sampling: Sampling, **more: int) -> Resident:
        block_ids = tuple(range(10 * line, 10 * line + 2))
        admission = Admission(line, "job", more.get("index", 0), tokens, 1, sampling, 0, block_ids)
        resident = Resident.of(admission, LIMITS.max_context)
        resident.line = line
        self.table.admit(resident)
        self.tokens[line], self.residents[line] = list(tokens), resident
        return resident

    def grow(self, line: int, new_block_ids: list[int]) -> None:
        resident = self.residents[line]
        resident.block_ids += new_block_ids
        self.table.grow([Row(resident, 1, new_block_ids)])

    def choose(self, token_ids: dict[int, int]) -> None:
        residents = [self.residents[line] for line in token_ids]
        self.table.append(residents, torch.tensor(list(token_ids.values())))
        for resident in residents:
            resident.num_tokens += 1
            self.tokens[resident.line].append(token_ids[resident.line])


GREEDY = Sampling(max_tokens=30, temperature=0.0)


def check_batch(tables: Tables, counts: dict[int, int]) -> None:
    """The batch of the next ``counts`` tokens of each line, entry by entry."""
    rows = [Row(tables.residents[line], count, ()) for line, count in counts.items()]
    batch = Flat().lay(rows, tables.table, 0)
    batch.context.check()
    tokens, positions, slots, sampled, starts = [], [], [], [], [0]
    for line, count in counts.items():
        resident = tables.residents[line]
        end = resident.num_computed + count
        for position in range(resident.num_computed, end):
            tokens.append(tables.tokens[line][position])
            positions.append(position)
            block_id = resident.block_ids[position // BLOCK_SIZE]
            slots.append(block_id * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(tokens))
        if end == resident.num_tokens:
            sampled.append(len(tokens) - 1)
    assert batch.token_ids.tolist() == tokens
    assert batch.positions.tolist() == positions
    assert batch.slots.tolist() == slots
    assert batch.sample_positions.tolist() == sampled
    assert batch.context.row_ids.tolist() == list(counts)
    assert batch.context.query_starts.tolist() == starts
    assert batch.context.max_query_len == max(counts.values())
    for (line, count), length in zip(
        counts.items(), batch.context.context_lens.tolist(), strict=True
    ):
        resident = tables.residents[line]
        assert length == resident.num_computed + count
        table = batch.context.block_tables[line, : len(resident.block_ids)]
        assert table.tolist() == resident.block_ids


def test_chunks_and_decodes_are_laid_end_to_end() -> None:
    tables = Tables()
    tables.admit(3, [5, 6, 7, 8, 9, 10], GREEDY)
    tables.admit(0, [1, 2, 3], GREEDY).num_computed = 2
    tables.admit(4, [50, 51, 52, 53, 54, 55, 56], GREEDY).num_computed = 3
    check_batch(tables, {3: 6, 0: 1, 4: 2})
    check_batch(tables, {4: 4})


def test_a_chosen_token_is_the_next_one_computed() -> None:
    tables = Tables()
    for line in (2, 1):
        tables.admit(line, [4, 5, 6], GREEDY).num_computed = 3
    tables.choose({2: 77, 1: 78})
    check_batch(tables, {1: 1, 2: 1})
    tables.residents[2].num_computed += 1
    tables.choose({2: 79})
    check_batch(tables, {1: 1, 2: 1})


def test_block_tables_grow_at_their_ends() -> None:
    tables = Tables()
    tables.admit(1, list(range(20)), GREEDY)
    tables.admit(2, list(range(9)), GREEDY)
    tables.grow(1, [90, 3, 91])
    tables.grow(2, [])
    tables.grow(2, [7])
    check_batch(tables, {2: 9, 1: 20})


def test_a_line_that_is_used_again_holds_nothing_of_before() -> None:
    tables = Tables()
    biased = Sampling(
        max_tokens=9, temperature=0.5, seed=2**64 - 3, top_k=4, top_p=0.25, logit_bias=((3, 1.5),)
    )
    tables.admit(1, list(range(30)), biased, index=6)
    table, columns = tables.table, Columns(tables.table.records)
    assert (int(columns.seed[1]), int(columns.index[1]), int(columns.top_k[1])) == (-3, 6, 4)
    assert (float(columns.temperature[1]), float(columns.top_p[1])) == (0.5, 0.25)
    assert (int(columns.num_biases[1]), int(table.bias_ids[1, 0])) == (1, 3)
    assert float(table.bias_values[1, 0]) == 1.5
    tables.admit(1, [9, 8, 7, 6], GREEDY)
    assert int(columns.num_biases[1]) == 0
    assert (int(columns.top_k[1]), float(columns.top_p[1])) == (0, 1.0)
    check_batch(tables, {1: 4})


def test_any_mix_of_rows() -> None:
    rng, tables = random.Random(2), Tables()
    for line in range(5):
        tables.admit(line, [rng.randrange(100) for _ in range(rng.randint(1, 8))], GREEDY)
    for _ in range(40):
        lines = rng.sample(range(5), rng.randint(1, 5))
        counts = {
            line: rng.randint(1, tables.residents[line].num_pending)
            for line in lines
            if tables.residents[line].num_tokens < LIMITS.max_context
        }
        for line, count in counts.items():
            resident = tables.residents[line]
            while (resident.num_computed + count) > len(resident.block_ids) * BLOCK_SIZE:
                tables.grow(line, [rng.randrange(99)])
        if not counts:
            continue
        check_batch(tables, counts)
        for line, count in counts.items():
            tables.residents[line].num_computed += count
        done = [line for line in counts if tables.residents[line].num_pending == 0]
        if done:
            tables.choose({line: rng.randrange(100) for line in done})
