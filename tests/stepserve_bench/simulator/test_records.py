"""What the simulator says of a step is what the real worker computes, and what records hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler_svc.core.events import Reported, Send
from scheduler_svc.lane.recorder import StepRecorder
from stepserve.protocol.step import StepCommand, StepReport
from stepserve_bench.simulator.cost import StepShape
from stepserve_bench.simulator.lane import Lane
from stepserve_bench.simulator.records import Follower, Recording, measured_steps
from stepserve_bench.simulator.rectangle import Rectangle
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.simulator.worker import SimulatedWorker, Tally, padded_shape
from stepserve_bench.workloads.lengths import Bounds, UniformLengths
from tests.checkpoints import make_checkpoint
from tests.stepserve_bench.simulator.small import COSTS
from worker_svc.assembly import assemble
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings

# As many blocks as one job may want: some are preempted, and come back among the dead.
BLOCK_SIZE, NUM_BLOCKS, NUM_PLACES, STEP_TOKENS, MAX_CONTEXT = 4, 16, 6, 32, 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("records"), "llama", seed=3)


class Beside(SimulatedWorker):
    """Lets a real worker execute each command as well, and keeps both accounts of it."""

    def __init__(self, system: System, lane: Lane, runner: Runner) -> None:
        super().__init__(system, lane.jobs.__getitem__)
        self.runner = runner
        self.executed: list[tuple[StepCommand, StepReport, Tally]] = []

    def execute(self, command: StepCommand) -> Tally:
        tally = super().execute(command)
        self.executed.append((command, self.runner.execute(command), tally))
        return tally


def run_beside(system: System, checkpoint: Path) -> tuple[Beside, Lane]:
    """Run jobs that preempt each other; their prompts have tokens that the checkpoint knows."""
    values: dict[str, Any] = {"device": "cpu", "kernels": "torch", "dtype": "float32", "port": 0}
    settings = WorkerSettings(
        model=str(checkpoint),
        attention=system.attention,
        batching=system.batching,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_batch_size=NUM_PLACES,
        max_step_tokens=STEP_TOKENS,
        max_context=MAX_CONTEXT,
        **values,
    )
    lengths = UniformLengths(Bounds(1, 24), Bounds(1, 30))
    workload = Workload((Stream(lengths=lengths, num_jobs=30),), seed=2)
    simulation = Simulation(system, workload, COSTS)
    lane = simulation.lanes[0]
    lane.worker = worker = Beside(system, lane, assemble(settings, "me").runner)
    simulation.run()
    return worker, lane


@pytest.mark.parametrize("batching", ["continuous", "static"])
@pytest.mark.parametrize("attention", ["paged", "grouped", "padded"])
def test_recorded_counts_are_those_recomputed(
    attention: str, batching: str, checkpoint: Path, tmp_path: Path
) -> None:
    system = System(
        attention=attention,  # type: ignore[arg-type]
        batching=batching,  # type: ignore[arg-type]
        max_batch_size=NUM_PLACES,
        max_step_tokens=STEP_TOKENS,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        max_context=MAX_CONTEXT,
        prefix_caching=False,
    )
    worker, lane = run_beside(system, checkpoint)
    with StepRecorder(tmp_path, "lane") as recorder:
        for command, report, _ in worker.executed:
            recorder.observe((), [Send(command)], lane.core)
            recorder.observe([Reported(report)], (), lane.core)
    lines = [json.loads(line) for line in (tmp_path / "lane.jsonl").read_text().splitlines()]
    follower = Follower(Recording(tmp_path, system.attention, system.batching))
    for (_, report, tally), sent, reported in zip(
        worker.executed, lines[::2], lines[1::2], strict=True
    ):
        shape = follower.shape(sent, reported)
        assert shape == tally.shape
        assert (shape.num_positions, shape.num_context) == (
            report.num_positions,
            report.num_context,
        )


def test_the_worker_s_own_counts_are_believed(tmp_path: Path) -> None:
    rows = {"admitted": [], "released": [], "rows": []}
    newcomer = {"admitted": [{"sequence_id": 1}], "released": [], "rows": [[1, 3]]}
    done = {"sampled": [1], "finished": [], "num_positions": 0, "num_context": 0}
    lines = [
        {"kind": "sent", "step": 1, "time_s": 0.0, **rows},
        {"kind": "reported", "step": 1, "time_s": 1.0, **done},
        {"kind": "sent", "step": 2, "time_s": 1.0, **newcomer},
        {"kind": "reported", "step": 2, "time_s": 2.0, **done},
        {"kind": "sent", "step": 3, "time_s": 2.0, **rows, "rows": [[1, 1]]},
        {"kind": "reported", "step": 3, "time_s": 3.0, **done}
        | {"num_positions": 7, "num_context": 9},
    ]
    (tmp_path / "lane.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shapes = [step.shape for step in measured_steps(Recording(tmp_path))]
    assert [(shape.num_positions, shape.num_context) for shape in shapes] == [(3, 3), (7, 9)]


def test_what_another_scheduler_began_is_counted(tmp_path: Path) -> None:
    sent = {"kind": "sent", "admitted": [], "released": [], "rows": [[7, 1]]}
    done = {"kind": "reported", "sampled": [7], "finished": []}
    lines: list[dict[str, Any]] = [
        {"kind": "adopted", "sequences": [{"sequence_id": 7, "num_computed": 8}]},
        {**sent, "step": 5, "time_s": 0.0},
        {**done, "step": 5, "time_s": 1.0},
        {**sent, "step": 6, "time_s": 1.0},
        {**done, "step": 6, "time_s": 2.0},
    ]
    (tmp_path / "lane.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    [step] = measured_steps(Recording(tmp_path))
    assert (step.shape.num_positions, step.shape.num_context) == (1, 10)


def test_a_latecomer_takes_a_dead_row_s_place() -> None:
    rectangle = Rectangle()
    assert rectangle.num_dead(4) == 0
    rectangle.left(3)
    assert rectangle.num_dead(3) == 1
    assert rectangle.num_dead(4) == 0, "the latecomer's"
    assert rectangle.num_dead(2) == 2
    rectangle.left(0)
    assert rectangle.num_dead(2) == 0, "another batch"


def test_dead_rows_choose_tokens_too() -> None:
    assert padded_shape([1, 2], [5, 9], 1, 2) == StepShape(3, 6, 27, 54, 1, 3, 3)
