"""The least time that a card allows."""

from __future__ import annotations

import pytest

from stepserve_bench.gpu import floors
from stepserve_bench.gpu.floors import Ceilings
from stepserve_bench.gpu.geometry import QWEN3_06B, QWEN3_8B
from stepserve_bench.gpu.loads import nano_load


def test_floors() -> None:
    """The numbers that the two runs are known by."""
    card = Ceilings(4.3e12, 790e12)
    load = nano_load(256, (100, 1024), QWEN3_06B.vocab_size)
    assert sum(load.outputs) == 133_966
    assert floors.step_us(QWEN3_06B, [(1, 600)], card) == pytest.approx(293, rel=0.02)
    assert floors.step_us(QWEN3_8B, [(1, 1024)] * 256, card) == pytest.approx(12_510, rel=0.02)
    run_s = floors.run_s(QWEN3_8B, [(1024, 1024)] * 256, 8192, card)
    assert run_s == pytest.approx(23.5, rel=0.1)
