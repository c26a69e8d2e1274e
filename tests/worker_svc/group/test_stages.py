"""Stages compute what one process does: every token of a lone run, every bit of a report."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand, StepReport
from tests.checkpoints import VARIANTS, make_checkpoint
from tests.worker_svc.drive import Launches, keep_every_promise, lane_for, most_tokens, prompt
from tests.worker_svc.group.threads import group, small_settings
from tests.worker_svc.step.recorded import record, recordable
from worker_svc.assembly import assemble
from worker_svc.core.limits import Limits
from worker_svc.runner import Runner
from worker_svc.step.graphs import GraphedSteps, buckets_for
from worker_svc.step.sampler import Sampler

# Family, stages, and steps that are launched before the tokens of the one before are known.
IN_CI = [
    ("qwen2-tied", 2, 1),
    ("mistral-window", 3, 3),
]
WAYS = {
    "paged": {"kernels": "cpu"},
    "grouped": {"attention": "grouped"},
    "padded": {"attention": "padded"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


def checkpoint_of(root: Path, variant: str) -> Path:
    if not (root / variant).exists():
        make_checkpoint(root / variant, variant, seed=5)
    return root / variant


@pytest.mark.parametrize(("variant", "num_stages", "ahead"), IN_CI)
def test_every_promise_is_kept(root: Path, variant: str, num_stages: int, ahead: int) -> None:
    checkpoint = checkpoint_of(root, variant)
    with group(small_settings(checkpoint, pipeline_stages=num_stages)) as (_, leader):
        keep_every_promise(leader, checkpoint, seed=17 + ahead, ahead=ahead)
        leader.reset()


def captured(runner: Runner) -> None:
    """Let every step of a rank be the replay of a recording."""
    executor = runner.executor
    executor.model.kernels = recordable(executor.model.kernels)
    buckets = buckets_for(Limits(257, 512, 4, 64, 6, 16))
    executor.sampler = Sampler(executor.table, executor.model.kernels)
    executor.graphs = GraphedSteps(
        executor.model, executor.cache, executor.table, executor.sampler, buckets
    )
    assert len(list(executor.graphs.capture(record))) == len(buckets)
    row_bytes, part = executor.model.hidden_size * 8, executor.model.part
    for graph in executor.graphs._graphs:
        kept = [states.nbytes for states in (graph.hidden, graph.arrived) if states is not None]
        bucket = graph.bucket
        counted = bucket.kept_bytes(row_bytes, part) - bucket.kept_bytes(0, part)
        assert sum(kept) == counted, "memory is not left free for it"


def test_stages_whose_steps_are_graphs_keep_them_too(root: Path) -> None:
    checkpoint = checkpoint_of(root, "qwen2-tied")
    settings = small_settings(checkpoint, pipeline_stages=2, max_step_tokens=64)
    with group(settings, prepare=captured) as (_, leader):
        keep_every_promise(leader, checkpoint, seed=43, ahead=1)
        leader.reset()


@pytest.mark.long
@pytest.mark.parametrize("ahead", range(4))
@pytest.mark.parametrize("num_stages", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_product(root: Path, variant: str, num_stages: int, ahead: int) -> None:
    checkpoint = checkpoint_of(root, variant)
    settings = small_settings(checkpoint, pipeline_stages=num_stages, kernels="cpu")
    with group(settings) as (_, leader):
        keep_every_promise(leader, checkpoint, seed=29, ahead=ahead)
        leader.reset()


@pytest.mark.parametrize(
    "way", ["paged", *(pytest.param(way, marks=pytest.mark.long) for way in ("grouped", "padded"))]
)
def test_reports_are_those_of_one_process_to_the_bit(root: Path, way: str) -> None:
    """In float32, with every sampling parameter: nothing that a stage hands on is rounded."""
    checkpoint = checkpoint_of(root, "llama3-rope")
    # Launched ahead, who has ended keeps its place for longer.
    settings = {"dtype": "float32", "max_batch_size": 16, **WAYS[way]}
    lone = assemble(small_settings(checkpoint, **settings), "me")
    commands, expected = driven(lone.runner, random.Random(way))
    with group(small_settings(checkpoint, pipeline_stages=3, **settings)) as (assembly, leader):
        launches = Launches(leader, ahead=2)
        reports = [report for command in commands for report in launches.begin(command)]
        reports += launches.land()
        leader.reset()
        assert assembly.info == replace(lone.info, num_stages=3)
        assert assembly.launch_ahead == lone.launch_ahead + 2
    assert [_timeless(report) for report in reports] == [_timeless(report) for report in expected]
    assert sum(len(report.token_ids) for report in reports) > 100
    told = [entry for report in reports for entry in report.logprobs.values()]
    assert any(entry.prompt for entry in told), "and a prompt's log-probabilities"


def driven(runner: Runner, rng: random.Random) -> tuple[list[StepCommand], list[StepReport]]:
    """What a lane commanded a runner, and what came of it."""
    lane, released = lane_for(), set[int]()
    commands, reports = [], []
    for _ in range(50):
        live = [i for i, j in lane.jobs.items() if j.finish is None and i not in released]
        leaving = [i for i in live if rng.random() < 0.03]
        if len(live) < 5:
            number = len(lane.jobs)
            live.append(lane.admit(prompt(rng.randint(1, 14), number), sampling(rng, number)))
        released.update(leaving)
        rows = {
            i: rng.randint(1, min(lane.pending(i), 8))
            for i in live
            if i not in leaving and lane.jobs[i].num_tokens < most_tokens(lane, i)
        }
        commands.append(lane.command(rows, leaving))
        reports.append(runner.execute(commands[-1]))
        lane.take(reports[-1])
    return commands, reports


def sampling(rng: random.Random, number: int) -> Sampling:
    drawn = Sampling(max_tokens=rng.randint(1, 12), temperature=0.8, seed=number)
    return rng.choice(
        [
            replace(drawn, temperature=0.0),
            replace(drawn, top_k=9, top_p=0.7, min_p=0.01, logprobs=3),
            replace(drawn, presence_penalty=0.4, frequency_penalty=0.2, repetition_penalty=1.3),
            replace(drawn, logit_bias=((3, 4.0), (8, -50.0)), logprobs=0, prompt_logprobs=2),
            replace(drawn, stop_token_ids=tuple(range(0, 257, 3))),
        ]
    )


def _timeless(report: StepReport) -> StepReport:
    return replace(report, duration_us=0)
