"""Mistakes that could be made with blocks: who holds them, and what they are found by."""

from __future__ import annotations

from tests.scheduler_svc.core.mutations import Mutant

POOL = "kvstore/pool.py"
PREFIX = "kvstore/prefix.py"

BLOCK_MUTANTS = (
    Mutant("a double free goes through", POOL, "if count == 0:", "if False:"),
    Mutant("allocated blocks stay free", POOL, "del self._empty[rest:]", "pass"),
    Mutant("a shared block is freed at once", POOL, "            if count:", "            if 0:"),
    Mutant(
        "one block too many is given", POOL, "count > self.num_free:", "count > 1 + self.num_free:"
    ),
    Mutant(
        "blocks that are shared come back once for each",
        POOL,
        "sum(self._references[block_id] == count for block_id, count in dropped.items())",
        "sum(dropped.values())",
    ),
    Mutant("tenants share prefixes", PREFIX, "tenant.encode()", 'b""'),
    Mutant("a key forgets what came before", PREFIX, "sha256(parent + tokens)", "sha256(tokens)"),
    Mutant(
        "a twin takes the key over",
        PREFIX,
        "self._blocks.setdefault(key, block_id) == block_id",
        "self._blocks.update({key: block_id}) is None",
    ),
    Mutant(
        "evicted content is still found",
        POOL,
        "            self._index.remove(block_id)\n            taken",
        "            taken",
    ),
    Mutant("the longest unused stays", POOL, "popitem(last=False)", "popitem()"),
    Mutant("a prefix is forgotten from its beginning", POOL, "reversed(block_ids)", "block_ids"),
    Mutant("a shared block stays idle", POOL, "                del self._idle[block_id]\n", ""),
)
