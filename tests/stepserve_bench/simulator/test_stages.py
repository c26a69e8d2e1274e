"""A pipeline in virtual time: what each stage computes, and when it waits."""

from __future__ import annotations

import pytest

from stepserve_bench.simulator.cost import PRESETS, StepCosts, StepShape
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.stages import Link, Stages, StageUse, Window
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import ClosedLoop

SECOND = StepCosts(position_us=1e6)
NO_LINK = Link(0.0, 0.0)
ONE = StepShape(1, 1, 1, 1, 0, 1, 1)
NOTHING = StepShape(0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 8])
@pytest.mark.parametrize("name", PRESETS)
def test_the_stages_have_all_of_the_model_and_what_is_fixed_each(
    name: str, num_stages: int
) -> None:
    whole = PRESETS[name]
    parts = whole.split(num_stages)
    for field in ("weights_us", "context_us", "position_us", "pair_us", "sampled_us", "head_us"):
        total = sum(getattr(part, field) for part in parts)
        assert total == pytest.approx(getattr(whole, field))
    assert {part.overhead_us for part in parts} == {whole.overhead_us}


@pytest.mark.parametrize("num_stages", [2, 4, 8])
def test_the_last_stage_has_fewer_layers_for_it_has_the_vocabulary(num_stages: int) -> None:
    whole = PRESETS["h200-qwen3-8b"]
    weights_us = [part.weights_us for part in whole.split(num_stages)]
    assert max(weights_us) - min(weights_us) < 1.5 * whole.weights_us / whole.num_layers


def test_stages_compute_at_the_same_time_and_a_micro_batch_waits_for_its_tokens() -> None:
    stages = Stages(SECOND.split(2), NO_LINK)
    # Half a second a stage.
    assert [stages.compute(0.0, ONE)[1] for _ in range(4)] == [1.0, 1.5, 2.0, 2.5]
    # With one micro-batch every other step is empty, and so is every other half second.
    stages = Stages(SECOND.split(2), NO_LINK)
    ends_s = [stages.compute(0.0, shape)[1] for shape in (ONE, NOTHING, ONE, NOTHING, ONE)]
    assert ends_s == [1.0, 1.0, 2.0, 2.0, 3.0]


def test_a_link_takes_time_on_the_way_and_on_the_way_back() -> None:
    stages = Stages(SECOND.split(2), Link(1e5, 1e4))
    first = stages.compute(0.0, ONE)[1]
    assert first == pytest.approx(1.11)
    stages.compute(0.0, NOTHING)
    assert stages.compute(0.0, ONE)[1] == pytest.approx(first + 0.1 + 1.11)


def test_how_long_a_stage_has_computed_though_its_times_lie_ahead() -> None:
    use = StageUse()
    use.add(1.0, 2.0)
    use.add(3.0, 5.0)
    assert [use.until(now_s) for now_s in (0.5, 1.5, 2.5, 4.0, 9.0)] == [0.0, 0.5, 1.0, 2.0, 3.0]


def test_a_window_is_what_happened_between_two_moments() -> None:
    use = StageUse()
    use.add(1.0, 2.0)
    use.add(3.0, 5.0)
    window = Window([use])
    window.begin(1.5, num_ended=10)
    window.end(4.0, num_ended=20)
    window.end(9.0, num_ended=99)
    assert window.requests_per_s == 4.0
    assert window.idle_shares == [pytest.approx(0.4)]


def test_one_batch_in_flight_leaves_stages_idle_and_as_many_as_stages_do_not() -> None:
    def bubbles(**changes: int) -> float:
        system = System(num_stages=4, max_batch_size=32, **changes)
        workload = Workload((Stream(arrivals=ClosedLoop(32), num_jobs=150),))
        run = Simulation(system, workload, PRESETS["h200-qwen3-8b"]).run()
        return run.figures()["bubble_share"]

    assert bubbles(target_batch_size=32) > 0.7
    assert bubbles() < 0.1
