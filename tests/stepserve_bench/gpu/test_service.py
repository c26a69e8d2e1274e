"""The whole service under load."""

from __future__ import annotations

from stepserve_bench.gpu.service import up_flags


def test_more_flags_for_up() -> None:
    flags = ["--max-steps-in-flight=3", "--no-cuda-graphs", "--x"]
    assert up_flags(flags) == {"max_steps_in_flight": "3", "cuda_graphs": False, "x": True}
