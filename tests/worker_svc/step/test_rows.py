"""The resident tables: what is laid out for the model is what the sequences hold."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from stepserve.protocol.sampling import Sampling
from tests.worker_svc.step.tables import BLOCK_SIZE, GREEDY, LIMITS, Tables, row_of
from worker_svc.core.limits import Limits
from worker_svc.kernels.record import Columns
from worker_svc.step.flat import FlatStep, on_device
from worker_svc.step.layout import Flat
from worker_svc.step.rows import RowTable
from worker_svc.step.staging import Buffer


def check_batch(tables: Tables, counts: dict[int, int]) -> None:
    """The batch of the next ``counts`` tokens of each row, entry by entry, the longest last."""
    rows = [row_of(tables.residents[row_id], count) for row_id, count in counts.items()]
    batch, _ = Flat().make_batch(rows, tables.table, 0)
    batch.context.check()
    tokens, positions, slots, starts = [], [], [], [0]
    ends = {row_id: tables.residents[row_id].num_computed + counts[row_id] for row_id in counts}
    last: dict[int, int] = {}
    for row_id in sorted(counts, key=lambda row_id: ends[row_id]):
        resident = tables.residents[row_id]
        for position in range(resident.num_computed, ends[row_id]):
            tokens.append(tables.tokens[row_id][position])
            positions.append(position)
            block_id = resident.block_ids[position // BLOCK_SIZE]
            slots.append(block_id * BLOCK_SIZE + position % BLOCK_SIZE)
        starts.append(len(tokens))
        last[row_id] = len(tokens) - 1
    sampled = [last[i] for i in counts if ends[i] == tables.residents[i].num_tokens]
    assert batch.token_ids.tolist() == tokens
    assert batch.positions.tolist() == positions
    assert batch.slots.tolist() == slots
    assert batch.sample_positions.tolist() == sampled
    assert batch.context.row_ids.tolist() == list(last)
    assert batch.context.context_lens.tolist() == [ends[row_id] for row_id in last]
    assert batch.context.query_starts.tolist() == starts
    assert batch.context.max_query_len == max(counts.values())
    for row_id in counts:
        resident = tables.residents[row_id]
        table = batch.context.block_tables[row_id, : len(resident.block_ids)]
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
    for row_id in (2, 1):
        tables.admit(row_id, [4, 5, 6], GREEDY).num_computed = 3
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
    table = tables.table
    columns = Columns(table.records)
    assert (int(columns.seed[1]), int(columns.index[1]), int(columns.top_k[1])) == (-3, 6, 4)
    assert (float(columns.temperature[1]), float(columns.top_p[1])) == (0.5, 0.25)
    assert int(columns.num_biases[1]) == 1
    assert (int(table.bias_ids[1, 0]), float(table.bias_values[1, 0])) == (3, 1.5)
    table.has_ended[1] = 1
    tables.admit(1, [9, 8, 7, 6], GREEDY)
    assert (int(columns.num_biases[1]), int(table.has_ended[1])) == (0, 0)
    assert (int(columns.top_k[1]), float(columns.top_p[1])) == (0, 1.0)
    check_batch(tables, {1: 4})


def test_what_is_padded_belongs_to_nobody() -> None:
    """The rows as before, and behind them tokens and rows that write nothing."""
    tables = Tables()
    tables.admit(3, [5, 6, 7, 8, 9, 10], GREEDY)
    tables.admit(0, [1, 2, 3], GREEDY).num_computed = 2
    step = FlatStep.of([row_of(tables.residents[3], 4), row_of(tables.residents[0], 1)])
    table = tables.table
    buffer = Buffer((9, 9, 4, 5, 4, 4, 4, 4), table.device)
    buffer.fill([np.full(size, 77) for size in (9, 9, 4, 5, 4, 4, 4, 4)])
    padded, sampled = on_device(
        buffer.fill(step.arrays, step.paddings(table.nobody)), table, (9, 40)
    )
    exact, exactly_sampled = step.on_device(table)
    padded.context.check()
    assert padded.token_ids[:5].tolist() == exact.token_ids.tolist()
    assert padded.slots.tolist() == [*exact.slots.tolist(), -1, -1, -1, -1]
    assert padded.context.query_starts.tolist() == [0, 1, 5, 5, 5]
    assert padded.context.context_lens.tolist() == [3, 4, 0, 0]
    assert padded.sample_positions.tolist() == [0, 0, 0, 0]
    assert exactly_sampled.row_ids.tolist() == [0]
    assert exactly_sampled.positions.tolist() == [3]
    assert sampled.row_ids.tolist() == [0, -1, -1, -1]


def test_the_longest_contexts_come_last_and_what_is_sampled_as_it_was_given() -> None:
    tables = Tables()
    for row_id, length in enumerate((3, 7, 2, 7)):
        tables.admit(row_id, [10 * row_id + at for at in range(length)], GREEDY)
    rows = [
        row_of(tables.residents[row_id], count)
        for row_id, count in ((0, 3), (2, 1), (1, 7), (3, 7))
    ]
    batch, sampled = FlatStep.of(rows).on_device(tables.table)
    assert batch.context.row_ids.tolist() == [2, 0, 1, 3]
    assert batch.context.context_lens.tolist() == [1, 3, 7, 7]
    assert sampled.row_ids.tolist() == [0, 1, 3]
    assert sampled.positions.tolist() == [3, 7, 7]
    assert batch.token_ids[batch.sample_positions].tolist() == [2, 16, 36]


def test_who_has_ended_has_no_slots() -> None:
    tables = Tables()
    tables.admit(3, [5, 6, 7], GREEDY)
    tables.table.has_ended[3] = 1
    step = FlatStep.of([row_of(tables.residents[3], 2)])
    batch, _ = step.on_device(tables.table)
    assert (batch.token_ids.tolist(), batch.slots.tolist()) == ([5, 6], [-1, -1])


def test_any_mix_of_rows() -> None:
    rng, tables = random.Random(2), Tables()
    for row_id in range(5):
        tables.admit(row_id, [rng.randrange(100) for _ in range(rng.randint(1, 8))], GREEDY)
    for _ in range(40):
        row_ids = rng.sample(range(5), rng.randint(1, 5))
        counts = {
            row_id: rng.randint(1, tables.residents[row_id].num_pending)
            for row_id in row_ids
            if tables.residents[row_id].num_tokens < LIMITS.max_context
        }
        for row_id, count in counts.items():
            resident = tables.residents[row_id]
            while (resident.num_computed + count) > len(resident.block_ids) * BLOCK_SIZE:
                tables.grow(row_id, [rng.randrange(99)])
        if not counts:
            continue
        check_batch(tables, counts)
        for row_id, count in counts.items():
            tables.residents[row_id].num_computed += count
        done = [row_id for row_id in counts if tables.residents[row_id].num_pending == 0]
        if done:
            tables.choose({row_id: rng.randrange(100) for row_id in done})


def test_more_tokens_than_can_be_addressed_are_known() -> None:
    limits = Limits(257, 2**20, 4, 64, 4096, 64)
    assert not RowTable.fits(limits)
    assert RowTable.fits(replace(limits, max_batch_size=1024))


SET = Sampling(
    max_tokens=9, temperature=0.5, top_p=0.5, stop_token_ids=(6,), logit_bias=((5, 1.0),)
)
OTHER_LISTS: dict[str, Any] = {"stop_token_ids": (7,), "logit_bias": ((6, 1.0),)}


def changed(name: str) -> Sampling:
    """The sampling with another value of this parameter."""
    value = getattr(SET, name)
    other: dict[str, Any] = {name: OTHER_LISTS.get(name) or value + type(value)(1)}
    return replace(SET, **other)


# What forbids tokens is no part of the record: see ``test_masks``.
MASKED = {"min_tokens", "structured_outputs"}
# Nor is what a prompt is scored by, whose tokens are the host's to say: see ``test_prompt_scores``.
SCORED = {"prompt_logprobs"}
SENT = {each.name for each in fields(Sampling)} - {"stop", "ignore_eos", "n"} - MASKED - SCORED


def row_bytes(sampling: Sampling) -> tuple[bytes, bytes, bytes]:
    """All that a row holds of how its tokens are chosen."""
    tables = Tables()
    tables.admit(1, [4, 5, 6], sampling)
    table = tables.table
    tensors = (table.records[1], table.bias_ids[1], table.bias_values[1])
    record, bias_ids, bias_values = (tensor.numpy().tobytes() for tensor in tensors)
    return record, bias_ids, bias_values


@pytest.mark.parametrize("name", sorted(SENT))
def test_each_parameter_that_a_worker_is_sent_is_in_its_row(name: str) -> None:
    """A new one needs a word of the record, and what reads it."""
    assert changed(name).for_worker() == changed(name), "it is sent"
    assert row_bytes(changed(name)) != row_bytes(SET)


def test_a_bias_is_in_its_row_by_its_value_too() -> None:
    assert row_bytes(replace(SET, logit_bias=((5, 2.0),))) != row_bytes(SET)
