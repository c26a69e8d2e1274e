"""The best of the tiles, and how it is told."""

from __future__ import annotations

import pytest

from stepserve_bench.gpu.sweep import table_entry
from stepserve_bench.gpu.trials import Trial, best_overall
from worker_svc.kernels.attention_tiles import ChunkTile, DecodeTile, Tiles


def test_the_best_tile_loses_least_over_all_shapes() -> None:
    fast, even, slow, part = (Trial("decode", DecodeTile(keys, 2, 3)) for keys in (16, 32, 64, 128))
    timed = {
        "large": {fast: 100.0, even: 110.0, slow: 400.0, part: 90.0},
        "small": {fast: 20.0, even: 11.0, slow: 10.0},
        "late": {},
    }
    best, losses = best_overall(timed)
    assert best == even
    assert losses == {"large": pytest.approx(110 / 90), "small": pytest.approx(1.1)}
    with pytest.raises(ValueError, match="no tile was timed for every shape"):
        best_overall({"large": {fast: 1.0}, "small": {slow: 1.0}})


def test_the_table_entry_can_be_read_as_it_is_printed() -> None:
    chosen = {
        "chunk": Trial("chunk", ChunkTile(128, 64, 8, 3, True)),
        "decode": Trial("decode", DecodeTile(64, 2, 3)),
    }
    names = {"Tiles": Tiles, "ChunkTile": ChunkTile, "DecodeTile": DecodeTile}
    entry = eval(f"{{{table_entry('A Card', chosen)}}}", names)
    tiles = Tiles(ChunkTile(128, 64, 8, 3, True), DecodeTile(64, 2, 3))
    assert entry == {"A Card": {(2, 128): tiles}}
