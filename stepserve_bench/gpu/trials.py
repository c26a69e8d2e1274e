"""The candidates of a sweep, and which of them is the best of all."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Literal

from torch import Tensor

from stepserve_bench.gpu.inputs import AttentionInputs
from worker_svc.kernels.attention_tiles import (
    CHUNK_CANDIDATES,
    DECODE_CANDIDATES,
    ChunkTile,
    DecodeTile,
    tiles_for,
)

ELEMENT_SIZE, HEAD_DIM = 2, 128
# Of a quick run.
QUICK_STRIDE = 8


@dataclass(frozen=True, slots=True)
class Trial:
    """One tile of one kernel; the other kernel keeps its own."""

    kind: Literal["decode", "chunk"]
    tile: ChunkTile | DecodeTile

    def __str__(self) -> str:
        """The tile's values, in the order of its fields."""
        return f"{self.kind}{astuple(self.tile)}"

    def attend(self, inputs: AttentionInputs) -> Tensor:
        """Attention with this tile."""
        from worker_svc.kernels.attention_triton import AttentionCall, attend_paged

        given = tiles_for("", ELEMENT_SIZE, HEAD_DIM)
        if isinstance(self.tile, ChunkTile):
            tiles = replace(given, chunk=self.tile)
        else:
            tiles = replace(given, decode=self.tile)
        return attend_paged(AttentionCall(*inputs.arguments()), tiles)


def trials(is_quick: bool) -> list[Trial]:
    """Every candidate, shuffled: where time runs out, some of each kind were timed."""
    found = [Trial("decode", tile) for tile in DECODE_CANDIDATES]
    found += [Trial("chunk", tile) for tile in CHUNK_CANDIDATES]
    random.Random(0).shuffle(found)
    return found[:: QUICK_STRIDE if is_quick else 1]


def best_overall(timed: Mapping[str, Mapping[Trial, float]]) -> tuple[Trial, dict[str, float]]:
    """The tile of the least mean loss against each shape's best, and its loss for each shape.

    The mean is geometric, over the shapes for which anything was timed; a tile counts if it was
    timed for all of those. Raises ValueError where there is none.
    """
    shapes = {name: times for name, times in timed.items() if times}
    common = set.intersection(*(set(times) for times in shapes.values())) if shapes else set()
    if not common:
        raise ValueError("no tile was timed for every shape")

    def losses(trial: Trial) -> dict[str, float]:
        return {name: times[trial] / min(times.values()) for name, times in shapes.items()}

    best = min(common, key=lambda trial: math.prod(losses(trial).values()))
    return best, losses(best)
