"""What each layout makes of the same rows, token by token."""

from __future__ import annotations

import pytest

from tests.worker_svc.step.tables import BLOCK_SIZE, GREEDY, LIMITS, Tables, row_of
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row
from worker_svc.kernels import Groups, Rectangle
from worker_svc.kernels.choice import SampledRows
from worker_svc.step.layout import Flat, Grouped, Layout, Padded, layout_for

# Row id: (tokens, computed before, tokens to compute).
LENGTHS = {3: (6, 4, 2), 0: (7, 0, 5), 4: (3, 2, 1), 1: (6, 4, 2), 2: (5, 4, 1)}


def tables_and_rows() -> tuple[Tables, list[Row]]:
    tables = Tables()
    for row_id, (num_tokens, num_computed, _) in LENGTHS.items():
        tokens = list(range(10 * row_id, 10 * row_id + num_tokens))
        tables.admit(row_id, tokens, GREEDY).num_computed = num_computed
    return tables, [
        row_of(tables.residents[row_id], count) for row_id, (*_, count) in LENGTHS.items()
    ]


def slot_of(tables: Tables, row_id: int, position: int) -> int:
    block_id = tables.residents[row_id].block_ids[position // BLOCK_SIZE]
    return block_id * BLOCK_SIZE + position % BLOCK_SIZE


def check_sampled(sampled: SampledRows) -> None:
    """Those that leave nothing pending, in the order of the rows; nobody who is dead."""
    assert sampled.row_ids.tolist() == [3, 4, 1, 2]
    assert sampled.positions.tolist() == [LENGTHS[row_id][0] for row_id in (3, 4, 1, 2)]


def test_groups_bring_rows_of_equal_lengths_together() -> None:
    tables, rows = tables_and_rows()
    batch, sampled = Grouped().make_batch(rows, tables.table, 3)
    order = [4, 2, 3, 1, 0]
    tokens = [
        (row_id, position)
        for row_id in order
        for position in range(LENGTHS[row_id][1], LENGTHS[row_id][1] + LENGTHS[row_id][2])
    ]
    assert batch.token_ids.tolist() == [tables.tokens[row_id][at] for row_id, at in tokens]
    assert batch.positions.tolist() == [at for _, at in tokens]
    assert batch.slots.tolist() == [slot_of(tables, row_id, at) for row_id, at in tokens]
    # In the order of the rows, without row 0, of which tokens are left.
    last = [tokens.index((row_id, LENGTHS[row_id][0] - 1)) for row_id in (3, 4, 1, 2)]
    assert batch.sample_positions.tolist() == last
    check_sampled(sampled)
    assert isinstance(batch.context, Groups)
    assert batch.context.row_ids.tolist() == order
    assert batch.context.query_lens.tolist() == [1, 1, 2, 2, 5]
    assert batch.context.context_lens.tolist() == [3, 5, 6, 6, 5]
    assert (batch.num_positions, batch.num_context) == (11, 25)


@pytest.mark.parametrize(("keeps_dead", "num_dead"), [(False, 2), (True, 0), (True, 2)])
def test_a_rectangle_repeats_last_tokens_and_copies_the_longest_row(
    keeps_dead: bool, num_dead: int
) -> None:
    tables, rows = tables_and_rows()
    batch, sampled = Padded(keeps_dead).make_batch(rows, tables.table, num_dead)
    row_ids = [*LENGTHS, *[3] * (num_dead if keeps_dead else 0)]
    tokens, slots, last = [], [], []
    for row, row_id in enumerate(row_ids):
        num_tokens, num_computed, count = LENGTHS[row_id]
        if num_computed + count == num_tokens:
            last.append(len(tokens) + count - 1)
        for column in range(5):
            position = num_computed + min(column, count - 1)
            tokens.append((row_id, position))
            is_own = column < count and row < len(LENGTHS)
            slots.append(slot_of(tables, row_id, position) if is_own else -1)
    assert batch.token_ids.tolist() == [tables.tokens[row_id][at] for row_id, at in tokens]
    assert batch.positions.tolist() == [at for _, at in tokens]
    assert batch.slots.tolist() == slots
    assert batch.sample_positions.tolist() == last
    check_sampled(sampled)
    assert isinstance(batch.context, Rectangle)
    assert batch.context.row_ids.tolist() == row_ids
    assert (batch.num_positions, batch.num_context) == (5 * len(row_ids), 6 * len(row_ids))


def test_a_dead_row_has_logits_where_nothing_else_is_sampled() -> None:
    tables, rows = tables_and_rows()
    batch, _ = Padded(keeps_dead=True).make_batch(rows[1:2], tables.table, 2)
    assert batch.sample_positions.tolist() == [9, 14]


LARGEST = [
    # (batch size, step tokens), then tokens and number of rows; contexts are below 40.
    (Flat(), (5, 64), (12, 5)),
    (Flat(), (9, 4), (1, 4)),
    (Grouped(), (5, 64), (12, 5)),
    (Padded(False), (5, 64), (39, 5)),
    (Padded(False), (5, 10), (6, 5)),
    (Padded(False), (64, 10), (6, 5)),
    (Padded(True), (64, 10), (10, 64)),
    (Padded(True), (3, 64), (39, 3)),
    (Padded(False), (1, 1), (1, 1)),
]


@pytest.mark.parametrize(("layout", "sizes", "expected"), LARGEST)
def test_no_step_takes_more_than_the_largest_rows(
    layout: Layout, sizes: tuple[int, int], expected: tuple[int, int]
) -> None:
    limits = Limits(100, LIMITS.max_context, BLOCK_SIZE, 99, *sizes)
    num_tokens, num_rows = expected
    assert layout.largest_rows(limits) == [(num_tokens, 39)] * num_rows


def test_only_static_rectangles_keep_the_dead() -> None:
    tables, rows = tables_and_rows()
    settings = [("paged", "static"), ("grouped", "static"), ("padded", "continuous")]
    for attention, batching in [*settings, ("padded", "static")]:
        batch, _ = layout_for(attention, batching).make_batch(rows, tables.table, 9)  # type: ignore[arg-type]
        assert (batch.num_context > 6 * len(rows)) == (
            (attention, batching) == ("padded", "static")
        )
