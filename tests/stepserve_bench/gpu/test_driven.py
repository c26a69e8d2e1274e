"""Models that are made for the steps alone."""

from __future__ import annotations

from pathlib import Path

from stepserve_bench.gpu.driven import Model, Rows, limits_for
from stepserve_bench.gpu.geometry import TINY
from stepserve_bench.gpu.setup import Setup


def test_models_of_one_shape_share_no_file(tmp_path: Path) -> None:
    """They are made in processes side by side, where one would read what another half wrote."""
    setup = Setup("cpu", "torch", True, (), tmp_path)
    rows_of_one = Rows(((4, 4),))
    Model(TINY, limits_for(TINY, [rows_of_one], 4), setup)
    assert list(tmp_path.iterdir()) == []
