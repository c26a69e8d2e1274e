"""Which blocks of a KV cache are free, and how many hold each of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType


class OutOfBlocks(Exception):
    """More blocks were asked for than are free; nothing was taken."""


class DoubleFree(Exception):
    """A block that nobody holds was released or shared: a bug of the caller."""


class BlockPool:
    """The blocks 0 to ``num_blocks`` - 1, counted by reference.

    Deterministic: the block that was freed last is taken first, a fresh pool gives 0, 1, 2 ...
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._references: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def references(self) -> Mapping[int, int]:
        """How many hold each block that is not free, by block id; a view, not a copy."""
        return MappingProxyType(self._references)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free blocks, one reference each. Raises OutOfBlocks."""
        rest = len(self._free) - count
        if rest < 0:
            raise OutOfBlocks(f"{count} blocks asked for, {len(self._free)} are free")
        taken = self._free[rest:]
        del self._free[rest:]
        taken.reverse()
        for block_id in taken:
            self._references[block_id] = 1
        return taken

    def share(self, block_ids: Iterable[int]) -> None:
        """Add one reference to each block. Raises DoubleFree where nobody holds it."""
        for block_id in block_ids:
            self._references[block_id] = self._held(block_id) + 1

    def release(self, block_ids: Iterable[int]) -> None:
        """Drop one reference to each block; the last one frees it.

        Raises DoubleFree where nobody holds it; the blocks before it stay released.
        """
        for block_id in block_ids:
            count = self._held(block_id) - 1
            if count:
                self._references[block_id] = count
            else:
                del self._references[block_id]
                self._free.append(block_id)

    def check(self) -> None:
        """Assert that every block is either free, once, or held by somebody."""
        assert len(self._free) + len(self._references) == self.num_blocks, "a block is lost"
        assert {*self._free, *self._references} == set(range(self.num_blocks)), "a block is twice"
        assert all(count > 0 for count in self._references.values()), "a reference to nobody"

    def _held(self, block_id: int) -> int:
        count = self._references.get(block_id, 0)
        if count == 0:
            raise DoubleFree(f"block {block_id} is held by nobody")
        return count
