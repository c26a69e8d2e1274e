from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kvstore.pool import BlockPool, DoubleFree, OutOfBlocks


def test_a_fresh_pool_gives_its_blocks_in_order_and_the_last_freed_first() -> None:
    pool = BlockPool(4)
    assert pool.allocate(3) == [0, 1, 2]
    pool.release([0, 1])
    assert pool.allocate(2) == [0, 1]
    assert pool.num_free == 1


def test_nothing_is_taken_where_too_much_is_asked_for() -> None:
    pool = BlockPool(4)
    pool.allocate(1)
    with pytest.raises(OutOfBlocks):
        pool.allocate(4)
    assert pool.num_free == 3
    pool.check()


def test_no_blocks_are_some_blocks() -> None:
    pool = BlockPool(2)
    assert pool.allocate(0) == []
    assert pool.num_free == 2


@pytest.mark.parametrize("block_id", [0, -1, 3, 4])
def test_what_nobody_holds_cannot_be_released_or_retained(block_id: int) -> None:
    pool = BlockPool(4)
    pool.allocate(1)
    pool.release([0])
    with pytest.raises(DoubleFree):
        pool.release([block_id])
    with pytest.raises(DoubleFree):
        pool.retain([block_id])
    pool.check()


def test_a_shared_block_is_free_once_the_last_holder_lets_go() -> None:
    pool = BlockPool(1)
    pool.retain(pool.allocate(1))
    pool.release([0])
    assert pool.num_free == 0
    pool.release([0])
    assert pool.num_free == 1


def test_tables_free_what_nobody_else_holds() -> None:
    pool = BlockPool(4)
    first = pool.allocate(3)
    pool.retain(first[:2])
    second = first[:2]
    pool.retain(first[:1])
    assert pool.num_freed_by([first]) == 1
    assert pool.num_freed_by([first, second]) == 2
    assert pool.num_freed_by([first, second, first[:1]]) == 3
    assert pool.num_freed_by([]) == 0


class PoolMachine(RuleBasedStateMachine):
    """A pool beside a count of who holds what."""

    @initialize(num_blocks=st.integers(0, 12))
    def start(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.pool = BlockPool(num_blocks)
        self.held: Counter[int] = Counter()

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        num_free = self.num_blocks - len(self.held)
        if count > num_free:
            with pytest.raises(OutOfBlocks):
                self.pool.allocate(count)
            return
        block_ids = self.pool.allocate(count)
        assert len(set(block_ids)) == count
        assert not set(block_ids) & set(self.held)
        self.held.update(block_ids)

    @rule(block_ids=st.lists(st.integers(0, 11), max_size=4, unique=True))
    def retain(self, block_ids: list[int]) -> None:
        shared = [block_id for block_id in block_ids if block_id in self.held]
        self.pool.retain(shared)
        self.held.update(shared)

    @rule(block_ids=st.lists(st.integers(0, 11), max_size=4, unique=True))
    def release(self, block_ids: list[int]) -> None:
        released = [block_id for block_id in block_ids if block_id in self.held]
        self.pool.release(released)
        self.held.subtract(released)
        self.held = +self.held

    @invariant()
    def blocks_are_conserved(self) -> None:
        self.pool.check()
        assert self.pool.references == self.held
        assert self.pool.num_free + len(self.held) == self.num_blocks


def test_blocks_are_conserved_whatever_happens() -> None:
    run_state_machine_as_test(
        PoolMachine,
        settings=settings(derandomize=True, deadline=None, max_examples=60, stateful_step_count=30),
    )


def test_a_fresh_pool_is_held_as_block_tables_say() -> None:
    pool = BlockPool(6)
    pool.restore([(4, 1), (4, 2)])
    pool.check()
    assert pool.references == {4: 2, 1: 1, 2: 1}
    assert pool.allocate(3) == [0, 3, 5]
    pool.release((4, 1))
    pool.release((4, 2))
    pool.check()
    assert pool.num_free == 3


@pytest.mark.parametrize("tables", [[(1, 1)], [(6,)], [(-1,)]])
def test_block_tables_that_cannot_be_are_refused(tables: list[tuple[int, ...]]) -> None:
    pool = BlockPool(6)
    with pytest.raises(ValueError, match="block"):
        pool.restore(tables)
    pool.check()
    assert pool.num_free == 6
