"""Which full blocks hold which beginnings of token sequences.

A block's key is the SHA-256 of the key before it and its own tokens, so that one key names
everything up to the block's end. The first key's parent is a salt: no two tenants
have a key in common.

Source: vLLM's automatic prefix caching; Kwon et al., section 4.4, shares blocks by content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import takewhile
from struct import pack

Key = bytes


def salt_of(tenant: str) -> Key:
    """Return the parent of a tenant's first keys, 32 bytes."""
    return sha256(tenant.encode()).digest()


def keys_from(
    parent: Key, token_ids: Sequence[int], block_size: int, blocks: range
) -> Iterator[Key]:
    """Yield the keys of consecutive blocks of ``token_ids``; ``parent`` is the one before."""
    for block in blocks:
        start = block * block_size
        tokens = pack(f"<{block_size}I", *token_ids[start : start + block_size])
        parent = sha256(parent + tokens).digest()
        yield parent


class PrefixIndex:
    """Keys to blocks and back; a block has one key at most, a key one block at most."""

    def __init__(self) -> None:
        self._blocks: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._keys

    def add(self, block_id: int, key: Key) -> None:
        """Let ``key`` name the block, unless another block has that key already."""
        if self._blocks.setdefault(key, block_id) == block_id:
            self._keys[block_id] = key

    def remove(self, block_id: int) -> None:
        """Forget a block; it is about to be written anew."""
        del self._blocks[self._keys.pop(block_id)]

    def match(self, keys: Iterable[Key]) -> list[int]:
        """Return the blocks of the first keys, up to the first one that names none."""
        found = map(self._blocks.get, keys)
        return list(takewhile(lambda block_id: block_id is not None, found))  # type: ignore[arg-type]

    def check(self) -> None:
        """Assert that both directions say the same."""
        assert self._keys == {block_id: key for key, block_id in self._blocks.items()}
