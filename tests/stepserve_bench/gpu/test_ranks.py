from __future__ import annotations

from stepserve_bench.gpu.ranks import FLAGS, named
from stepserve_bench.gpu.service import up_flags


def test_two_gpus_are_two_stages_or_two_ranks() -> None:
    found = [up_flags((flag,)) for flag in FLAGS.values()]
    assert found == [{"pipeline_stages": "2"}, {"tensor_parallel": "2"}]


def test_rows_are_not_taken_for_those_of_one_gpu() -> None:
    row = {"what": "8B load", "seconds": 2.0, "figures": {"8B s": 2.0}}
    assert named(row, "2 stages") == {
        "what": "8B load, 2 stages",
        "seconds": 2.0,
        "figures": {"8B s, 2 stages": 2.0},
    }
    assert named({"what": "8B start"}, "2 ranks") == {"what": "8B start, 2 ranks"}
