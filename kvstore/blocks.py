"""Arithmetic of blocks, the same on both sides of the wire."""

from __future__ import annotations


def num_blocks_for(num_tokens: int, block_size: int) -> int:
    """Return how many blocks of ``block_size`` tokens hold ``num_tokens`` tokens."""
    return (num_tokens + block_size - 1) // block_size
