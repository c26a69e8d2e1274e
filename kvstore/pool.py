"""Which blocks of a KV cache are free, and how many hold each of the others."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from kvstore.prefix import Key, PrefixIndex


class OutOfBlocks(Exception):
    """More blocks were asked for than are free; nothing was taken."""


class DoubleFree(Exception):
    """A block that nobody holds was released or retained: a bug of the caller."""


class BlockPool:
    """The blocks 0 to ``num_blocks`` - 1, counted by reference.

    A block that nobody holds is free, also where its content is still indexed; those are
    taken last, the longest unused first. Deterministic: of the others the block that was
    freed last is taken first, a fresh pool gives 0, 1, 2 ...
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # Indexed, held by nobody.
        self._references: dict[int, int] = {}
        self._index = PrefixIndex()

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._idle)

    @property
    def references(self) -> Mapping[int, int]:
        """How many hold each block that is not free, by block id; a view, not a copy."""
        return MappingProxyType(self._references)

    def allocate(self, count: int) -> list[int]:
        """Take ``count`` free blocks, one reference each. Raises OutOfBlocks."""
        if count > self.num_free:
            raise OutOfBlocks(f"{count} blocks asked for, {self.num_free} are free")
        rest = max(0, len(self._empty) - count)
        taken = self._empty[rest:]
        del self._empty[rest:]
        taken.reverse()
        while len(taken) < count:
            block_id, _ = self._idle.popitem(last=False)
            self._index.remove(block_id)
            taken.append(block_id)
        for block_id in taken:
            self._references[block_id] = 1
        return taken

    def restore(self, tables: Iterable[Sequence[int]]) -> None:
        """Let a fresh pool's blocks be held as these tables say, each one holder's.

        Raises ValueError where a table names a block twice, or one that there is not; then
        nothing was changed.
        """
        references = Counter[int]()
        for table in tables:
            if len(set(table)) < len(table):
                raise ValueError("a table names a block twice")
            references.update(table)
        if references and not 0 <= min(references) <= max(references) < self.num_blocks:
            raise ValueError(f"a block id is not below {self.num_blocks}")
        assert not self._references, "the pool is in use"
        self._references = dict(references)
        self._empty = [block_id for block_id in self._empty if block_id not in references]

    def index(self, block_id: int, key: Key) -> None:
        """Let the content of a held block be found by ``key``. Raises DoubleFree."""
        self._held(block_id)
        self._index.add(block_id, key)

    def forget(self, block_ids: Iterable[int]) -> None:
        """Let the content of held blocks be found no more."""
        for block_id in block_ids:
            if block_id in self._index:
                self._held(block_id)
                self._index.remove(block_id)

    def match(self, keys: Iterable[Key]) -> list[int]:
        """Return the blocks that hold the longest known beginning of ``keys``."""
        return self._index.match(keys)

    def num_idle(self, block_ids: Iterable[int]) -> int:
        """How many of these blocks are free now and would be so no more once retained."""
        return sum(block_id in self._idle for block_id in block_ids)

    def num_freed_by(self, tables: Iterable[Iterable[int]]) -> int:
        """How many blocks are free once these tables are released, each one holder's."""
        dropped = Counter(block_id for table in tables for block_id in table)
        return sum(self._references[block_id] == count for block_id, count in dropped.items())

    def retain(self, block_ids: Iterable[int]) -> None:
        """Add one reference to each block. Raises DoubleFree where its content is nobody's."""
        for block_id in block_ids:
            if block_id in self._idle:
                del self._idle[block_id]
                self._references[block_id] = 1
            else:
                self._references[block_id] = self._held(block_id) + 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Drop one reference to each block of a table; the last one frees it.

        From the end of the table on, so that a long prefix is forgotten from its end.
        Raises DoubleFree where nobody holds it; the blocks behind it stay released.
        """
        for block_id in reversed(block_ids):
            count = self._held(block_id) - 1
            if count:
                self._references[block_id] = count
                continue
            del self._references[block_id]
            if block_id in self._index:
                self._idle[block_id] = None
            else:
                self._empty.append(block_id)

    def check(self) -> None:
        """Assert that every block is either free, once, or held by somebody."""
        blocks = [*self._empty, *self._idle, *self._references]
        assert len(blocks) == self.num_blocks, "a block is lost"
        assert set(blocks) == set(range(self.num_blocks)), "a block is twice"
        assert all(count > 0 for count in self._references.values()), "a reference to nobody"
        assert all(block_id in self._index for block_id in self._idle), "idle for nothing"
        assert not any(block_id in self._index for block_id in self._empty), "found and empty"
        self._index.check()

    def _held(self, block_id: int) -> int:
        count = self._references.get(block_id, 0)
        if count == 0:
            raise DoubleFree(f"block {block_id} is held by nobody")
        return count
