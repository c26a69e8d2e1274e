from __future__ import annotations

import random

import pytest

from kvstore.pool import BlockPool, DoubleFree
from kvstore.prefix import Key, keys_from, salt_of


def keys_of(tokens: list[int], tenant: str = "", block_size: int = 2) -> list[Key]:
    return [*keys_from(salt_of(tenant), tokens, block_size, range(len(tokens) // block_size))]


def test_a_key_names_all_tokens_up_to_the_end_of_its_block() -> None:
    keys = keys_of([1, 2, 3, 4])
    assert keys_of([1, 2, 3, 4, 5]) == keys
    assert keys_of([1, 2, 9, 4])[0] == keys[0]
    assert keys_of([1, 2, 9, 4])[1] != keys[1]
    assert keys_of([9, 2, 3, 4])[1] != keys[1]


def test_keys_are_extended_as_if_made_at_once() -> None:
    (first,) = keys_of([1, 2])
    more = keys_from(first, [1, 2, 3, 4, 5, 6, 7], 2, range(1, 3))
    assert [first, *more] == keys_of([1, 2, 3, 4, 5, 6])


def test_no_two_tenants_have_a_key_in_common() -> None:
    assert not set(keys_of([1, 2, 3, 4], "a")) & set(keys_of([1, 2, 3, 4], "b"))


def pool_with(num_blocks: int, tokens: list[int]) -> tuple[BlockPool, list[Key], list[int]]:
    """A pool in which the blocks of ``tokens`` are held and indexed."""
    pool, keys = BlockPool(num_blocks), keys_of(tokens)
    block_ids = pool.allocate(len(keys))
    for block_id, key in zip(block_ids, keys, strict=True):
        pool.index(block_id, key)
    return pool, keys, block_ids


def test_the_longest_known_beginning_is_found_held_or_not() -> None:
    pool, keys, block_ids = pool_with(4, [1, 2, 3, 4, 5, 6])
    assert pool.match(keys_of([1, 2, 3, 4, 9, 9])) == block_ids[:2]
    pool.release(block_ids)
    assert pool.num_free == 4
    assert pool.match(keys) == block_ids
    assert pool.match(keys_of([9, 9])) == []


def test_a_block_that_nobody_holds_is_free_until_it_is_retained() -> None:
    pool, _, block_ids = pool_with(4, [1, 2, 3, 4])
    assert pool.num_idle(block_ids) == 0
    pool.release(block_ids)
    assert (pool.num_free, pool.num_idle(block_ids)) == (4, 2)
    pool.retain(block_ids)
    assert (pool.num_free, pool.num_idle(block_ids)) == (2, 0)
    pool.retain(block_ids)
    pool.release(block_ids)
    assert pool.num_free == 2
    pool.check()


def test_indexed_blocks_are_taken_last_and_a_prefix_from_its_end() -> None:
    pool, keys, block_ids = pool_with(4, [1, 2, 3, 4, 5, 6])
    pool.release(block_ids)
    assert pool.allocate(1) == [3]
    assert pool.match(keys) == block_ids
    assert pool.allocate(1) == [block_ids[2]]
    assert pool.match(keys) == block_ids[:2]
    pool.check()


def test_the_longest_unused_goes_first() -> None:
    pool, first, block_ids = pool_with(4, [1, 2])
    others = pool.allocate(1)
    (second,) = keys_of([7, 8])
    pool.index(others[0], second)
    pool.release(block_ids)
    pool.release(others)
    pool.retain(block_ids)
    pool.release(block_ids)
    pool.allocate(3)
    assert pool.match([second]) == []
    assert pool.match(first) == block_ids


def test_what_two_have_computed_is_found_in_the_first() -> None:
    pool, keys, block_ids = pool_with(4, [1, 2])
    twin = pool.allocate(1)
    pool.index(twin[0], keys[0])
    assert pool.match(keys) == block_ids
    pool.release(twin)
    assert pool.allocate(3)[-1] == twin[0] or pool.match(keys) == block_ids
    pool.check()


def test_what_is_forgotten_is_found_no_more_but_still_held() -> None:
    pool, keys, block_ids = pool_with(4, [1, 2, 3, 4])
    pool.forget(block_ids)
    assert pool.match(keys) == []
    assert pool.num_free == 2
    pool.release(block_ids)
    assert pool.num_idle(block_ids) == 0
    pool.check()


def test_an_empty_block_is_neither_indexed_nor_retained() -> None:
    pool = BlockPool(2)
    with pytest.raises(DoubleFree):
        pool.index(0, keys_of([1, 2])[0])
    with pytest.raises(DoubleFree):
        pool.retain([0])


def test_content_is_never_found_where_it_is_not() -> None:
    """Random users write what they hold alone; whatever is matched must hold those tokens."""
    chance = random.Random(5)
    pool = BlockPool(6)
    content: dict[int, Key] = {}
    tables: list[list[int]] = []
    for _ in range(2000):
        if tables and (chance.random() < 0.5 or pool.num_free < 3):
            pool.release(tables.pop(chance.randrange(len(tables))))
        else:
            keys = keys_of([chance.randrange(2) for _ in range(6)])
            matched = pool.match(keys)
            assert [content[block_id] for block_id in matched] == keys[: len(matched)]
            pool.retain(matched)
            fresh = pool.allocate(len(keys) - len(matched))
            for block_id, key in zip(fresh, keys[len(matched) :], strict=True):
                content[block_id] = key
                pool.index(block_id, key)
            tables.append(matched + fresh)
        pool.check()
