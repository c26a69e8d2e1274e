"""The cost model is found again in the steps that it made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from scheduler_svc.core.events import Effect, Event
from scheduler_svc.lane import recorder
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.simulator.cost import (
    PRESETS,
    StepCosts,
    StepShape,
    about_costs,
    add_costs,
    costs_for,
    costs_in_words,
    read_costs,
)
from stepserve_bench.simulator.fit import fit_costs, fit_recordings
from stepserve_bench.simulator.gpu_fit import fit_gpu_results
from stepserve_bench.simulator.lane import Lane
from stepserve_bench.simulator.predict import predict
from stepserve_bench.simulator.records import MeasuredStep, Recording
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.lengths import Bounds, UniformLengths

TRUE = StepCosts(overhead_us=900.0, row_us=15.0, sampled_us=20.0, context_us=0.4, position_us=60.0)


def test_known_costs_are_recovered_from_noisy_steps() -> None:
    chance = random.Random(0)
    steps = [_step(chance, noise=0.02) for _ in range(4_000)]
    fit = fit_costs(steps)
    assert fit.num_steps == 4_000
    assert fit.error_mean < 0.03
    for name in ("overhead_us", "row_us", "sampled_us", "context_us", "position_us"):
        assert getattr(fit.costs, name) == pytest.approx(getattr(TRUE, name), rel=0.25, abs=5.0)
    for step in steps[:100]:
        assert fit.costs.duration_us(step.shape) == pytest.approx(
            TRUE.duration_us(step.shape), rel=0.03
        )


def test_all_steps_together_take_what_they_took() -> None:
    chance = random.Random(1)
    steps = [_step(chance, noise=0.3) for _ in range(400)]
    costs = fit_costs(steps).costs
    said = sum(costs.duration_us(step.shape) for step in steps)
    assert said == pytest.approx(sum(step.period_us for step in steps))


def test_too_few_steps_are_refused() -> None:
    chance = random.Random(2)
    with pytest.raises(InvalidRequest, match="too few"):
        fit_costs([_step(chance, 0.0) for _ in range(10)])


@pytest.mark.parametrize("attention", ["paged", "grouped", "padded"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_fit_to_records_predicts_another_run(
    attention: str, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System(
        attention=attention,  # type: ignore[arg-type]
        batching="static" if attention == "padded" else "continuous",
        max_batch_size=8,
        max_step_tokens=128,
        max_steps_in_flight=depth,
        max_context=512,
    )
    _record(system, 120, tmp_path, monkeypatch)
    costs, _ = fit_recordings([Recording(tmp_path, system.attention, system.batching)])
    chance = random.Random(5)
    pairs = [(chance.randint(8, 200), chance.randint(2, 90)) for _ in range(60)]
    told = predict(system, pairs, costs)["requests_per_s"]
    true = predict(system, pairs, {"any": TRUE})["requests_per_s"]
    assert told == pytest.approx(true, rel=0.05)


def test_costs_of_several_attentions_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    add_costs(path, {"paged": TRUE}, {"paged": {"num_steps": 7}})
    add_costs(path, {"padded": PRESETS["h200-qwen3-8b"]}, {})
    costs = read_costs(str(path))
    assert costs == {"paged": TRUE, "padded": PRESETS["h200-qwen3-8b"]}
    with pytest.raises(InvalidRequest, match="grouped"):
        costs_for(costs, "grouped")


def test_costs_say_where_they_are_from(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    fit = {"num_steps": 700, "error_mean": 0.04, "measured_on": "two cores"}
    add_costs(path, {"paged": TRUE}, {"paged": fit})
    assert about_costs(str(path)) == {"name": "costs.json", "source": {"paged": fit}}
    assert costs_in_words(about_costs(str(path))) == (
        "costs: costs.json, fitted to steps: "
        "paged with 4.0% mean error on its own 700 steps, measured on two cores"
    )
    preset = costs_in_words(about_costs("h200-qwen3-8b"))
    assert "computed from data sheets, not validated" in preset


def test_a_file_that_holds_no_costs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    for text in ("", "[]", "{}", '{"costs": {"paged": {"speed": 1}}}'):
        path.write_text(text)
        with pytest.raises(InvalidRequest, match="file of costs"):
            read_costs(str(path))


def test_a_preset_is_near_the_computed_floors() -> None:
    """The floors at 70 % of what the GPU can do: 14 ms for 256 rows of 1,000 tokens, 18.4 ms
    for a prompt of 1,024; the overhead comes on top."""
    costs = PRESETS["h200-qwen3-8b"]
    decode = StepShape(256, 256, 256_000, 256_000, 0, 256, 256)
    prefill = StepShape(1, 1024, 1024, 1024 * 512, 0, 1, 1024)
    assert costs.duration_us(decode) == pytest.approx(13.9e3 / 0.7, rel=0.15)
    assert costs.duration_us(prefill) == pytest.approx(18.4e3 / 0.7, rel=0.15)


def _step(chance: random.Random, noise: float) -> MeasuredStep:
    rows = chance.randint(1, 64)
    prefill = chance.choice((0, 0, chance.randint(1, 500)))
    positions, context = rows + prefill, rows * chance.randint(10, 800)
    sampled = chance.randint(rows // 2, rows)
    pairs = context + prefill * chance.randint(1, 300)
    shape = StepShape(rows, positions, context, pairs, 0, sampled, positions)
    return MeasuredStep(shape, TRUE.duration_us(shape) * chance.gauss(1.0, noise), True)


def _record(
    system: System, num_jobs: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the scheduler's own recorder record a simulation, by the simulation's clock."""
    lengths = UniformLengths(Bounds(8, 200), Bounds(2, 90))
    workload = Workload((Stream(lengths=lengths, num_jobs=num_jobs),), seed=3)
    with recorder.StepRecorder(directory, "lane") as recording:

        def watch(lane: Lane, events: Sequence[Event], effects: Sequence[Effect]) -> None:
            recording.observe(events, effects, lane.core)

        simulation = Simulation(system, workload, TRUE, watch=watch)
        monkeypatch.setattr(recorder.time, "time", lambda: simulation.now_s)
        simulation.run()
        monkeypatch.undo()


RESULTS = Path(__file__).parents[3] / "bench" / "results"


def test_costs_of_a_gpu_say_its_measured_steps_again() -> None:
    fit, card = fit_gpu_results(RESULTS / "2026-11-26-gpu-h200.json")
    assert card == "NVIDIA H200"
    assert fit.error_mean < 0.05
    # The committed costs, which documents quote, are these.
    [committed] = read_costs(str(RESULTS / "2026-11-26-gpu-h200-costs.json")).values()
    for name, value in asdict(fit.costs).items():
        assert getattr(committed, name) == pytest.approx(value), name


def test_what_is_no_result_of_a_gpu_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"sections": {"steps": {"rows": []}}}')
    with pytest.raises(InvalidRequest, match="has no steps of an 8B model"):
        fit_gpu_results(path)
