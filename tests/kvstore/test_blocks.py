from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvstore.blocks import num_blocks_for


@given(st.integers(0, 10**6), st.integers(1, 512))
def test_the_blocks_hold_the_tokens_and_one_less_would_not(
    num_tokens: int, block_size: int
) -> None:
    num_blocks = num_blocks_for(num_tokens, block_size)
    assert num_blocks * block_size >= num_tokens
    assert (num_blocks - 1) * block_size < max(num_tokens, 1)
