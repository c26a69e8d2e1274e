"""Every attention in every batching: the same tokens, and what padding costs is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason, Hello, StepReport
from tests.checkpoints import lone_greedy, make_checkpoint
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import (
    GREEDY,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
)
from tests.worker_svc.lane import Lane
from worker_svc.engine import Commands, Engine
from worker_svc.runner import Runner

Settings = dict[str, Any]

GATHERING = [
    pytest.param({"attention": "grouped"}, id="grouped"),
    pytest.param({"attention": "padded"}, id="padded"),
    pytest.param({"attention": "padded", "batching": "static"}, id="padded-static"),
]
EVERY = [pytest.param({"attention": "paged", "batching": "static"}, id="paged-static"), *GATHERING]


def lengths(num_tokens: int) -> Sampling:
    return replace(GREEDY, max_tokens=num_tokens)


every_setting = pytest.mark.parametrize("settings", EVERY)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers with and without a window of 5, two query heads for each KV head."""
    return make_checkpoint(tmp_path_factory.mktemp("windowed"), "qwen3-layer-types", seed=4)


@every_setting
@pytest.mark.parametrize("kernels", ["torch", "cpu"])
def test_a_random_schedule_keeps_every_promise(
    assembled: Assemble, small_checkpoint: Path, settings: Settings, kernels: str
) -> None:
    keep_every_promise(assembled(**settings, kernels=kernels).runner, small_checkpoint, seed=6)


@every_setting
def test_layers_of_different_windows_get_the_tokens_of_a_lone_run(
    assembled: Assemble, windowed: Path, settings: Settings
) -> None:
    keep_every_promise(assembled(**settings, model=str(windowed)).runner, windowed, seed=7)


@every_setting
def test_prompts_of_one_length_are_computed_whole(
    assembled: Assemble, windowed: Path, settings: Settings
) -> None:
    lane = lane_for()
    runner = assembled(**settings, model=str(windowed)).runner
    jobs = [lane.jobs[lane.admit(prompt(9, seed), GREEDY)] for seed in (1, 2, 1)]
    finish_all(runner, lane)
    for job in jobs:
        lone = lone_greedy(windowed, job.admission.token_ids, 12, stop_token_ids=())
        assert job.tokens == lone.tokens
    all_is_free(runner, lane)


@every_setting
def test_blocks_shared_by_live_sequences_are_read_by_both(
    assembled: Assemble, small_checkpoint: Path, settings: Settings
) -> None:
    """The second begins behind a prefix that the first computed, and outlives it."""
    runner, lane = assembled(**settings).runner, lane_for()
    first = lane.admit(prompt(11), replace(GREEDY, max_tokens=3))
    lane.take(runner.execute(lane.command({first: 11})))
    shared = lane.jobs[first].blocks[:2]
    heads = [[*prompt(11)[:8], 9, 9], [*prompt(11)[:8], 7]]
    later = [lane.admit(head, GREEDY, shared=(8, shared)) for head in heads]
    report = runner.execute(lane.command({later[0]: 2, later[1]: 1, first: 1}))
    assert report.freed == ()
    lane.take(report)
    report = runner.execute(lane.command(dict.fromkeys((first, *later), 1)))
    assert [(i, list(blocks)[:2]) for i, blocks in report.freed] == [(first, shared)]
    lane.take(report)
    report = runner.execute(lane.command({later[0]: 1}, release=[later[1]]))
    assert [(i, list(blocks)[:2]) for i, blocks in report.freed] == [(later[1], shared)]
    lane.take(report)
    finish_all(runner, lane)
    lone = lone_greedy(small_checkpoint, heads[0], 12, stop_token_ids=())
    assert lane.jobs[later[0]].tokens == lone.tokens
    all_is_free(runner, lane)


@every_setting
def test_what_is_not_finite_stays_with_its_own_sequence(
    assembled: Assemble, small_checkpoint: Path, settings: Settings
) -> None:
    """Not even who gets its blocks afterwards, or stands beside it in a rectangle, sees it."""
    runner, heirs = assembled(**settings).runner, [prompt(5, seed) for seed in range(3)]
    lone = [
        lone_greedy(small_checkpoint, token_ids, num_tokens, stop_token_ids=()).tokens
        for token_ids, num_tokens in (([5, 6, 7] * 4, 20), *((heir, 5) for heir in heirs))
    ]
    poison = min(set(range(8, 257)).difference(*lone, *heirs))
    runner.executor.model._weights.embedding[poison] = torch.nan
    lane = Lane(num_blocks=12, block_size=4)
    ill, sound = lane.admit([poison] * 8, GREEDY), lane.admit([5, 6, 7] * 4, lengths(20))
    report = runner.execute(lane.command({ill: 8, sound: 12}))
    assert report.finished == ((ill, FinishReason.ERROR),)
    lane.take(report)
    for token_ids in heirs:
        heir = lane.admit(token_ids, lengths(5))
        lane.take(runner.execute(lane.command({heir: 5, sound: 1})))
        for _ in range(4):
            lane.take(runner.execute(lane.command({heir: 1, sound: 1})))
    finish_all(runner, lane)
    assert [job.tokens for job in lane.jobs.values()][1:] == lone
    all_is_free(runner, lane)


@every_setting
async def test_an_engine_reports_the_tokens_of_a_lone_run(
    assembled: Assemble, small_checkpoint: Path, settings: Settings
) -> None:
    assembly, commands, lane = assembled(**settings), Commands(), lane_for()
    engine = Engine(assembly.runner, assembly.info)
    await engine.greet(Hello(1, "test"), commands)
    ids = [lane.admit(prompt(n), replace(GREEDY, max_tokens=n)) for n in (9, 4, 6)]
    rows = {i: lane.pending(i) for i in ids}
    while rows:
        lane.take(await engine.execute(lane.command(rows), commands))
        rows = {i: 1 for i in ids if lane.jobs[i].finish is None}
    for n, i in zip((9, 4, 6), ids, strict=True):
        expected = lone_greedy(small_checkpoint, prompt(n), n, stop_token_ids=())
        assert lane.jobs[i].tokens == expected.tokens
    await engine.drain(1.0)


def step(
    runner: Runner, lane: Lane, rows: dict[int, int], release: tuple[int, ...] = ()
) -> StepReport:
    report = runner.execute(lane.command(rows, release))
    lane.take(report)
    return report


def shape_of(report: StepReport) -> tuple[int, int]:
    return report.num_positions, report.num_context


@pytest.mark.parametrize("attention", ["paged", "grouped"])
def test_nothing_is_padded_where_nothing_should_be(assembled: Assemble, attention: str) -> None:
    runner, lane = assembled(attention=attention, batching="static").runner, lane_for()
    ids = [lane.admit(prompt(n), GREEDY) for n in (9, 2, 5)]
    assert shape_of(step(runner, lane, dict(zip(ids, (9, 2, 3), strict=True)))) == (14, 14)
    assert shape_of(step(runner, lane, {ids[0]: 1, ids[2]: 2})) == (3, 10 + 5)
    assert shape_of(step(runner, lane, {ids[0]: 1}, release=(ids[1],))) == (1, 11)
    assert shape_of(step(runner, lane, {})) == (0, 0)


def test_a_rectangle_is_as_long_as_its_longest_row(assembled: Assemble) -> None:
    runner, lane = assembled(attention="padded").runner, lane_for()
    ids = [lane.admit(prompt(n), GREEDY) for n in (9, 2, 5)]
    assert shape_of(step(runner, lane, dict(zip(ids, (9, 2, 3), strict=True)))) == (27, 27)
    assert shape_of(step(runner, lane, {ids[0]: 1, ids[2]: 2})) == (4, 20)
    # Who has left is missing in the next rectangle.
    assert shape_of(step(runner, lane, {ids[0]: 1, ids[2]: 1}, release=(ids[1],))) == (2, 22)


def test_a_static_rectangle_keeps_its_height_until_nobody_lives(
    assembled: Assemble, small_checkpoint: Path
) -> None:
    runner, lane = assembled(attention="padded", batching="static").runner, lane_for()
    ids = [lane.admit(prompt(n), lengths(n)) for n in (3, 2, 5)]
    assert shape_of(step(runner, lane, dict(zip(ids, (3, 2, 5), strict=True)))) == (15, 15)
    report = step(runner, lane, dict.fromkeys(ids, 1))
    assert report.finished == ((ids[1], FinishReason.LENGTH),)
    assert [sequence_id for sequence_id, _ in report.freed] == [ids[1]]
    assert lane.jobs[ids[1]].blocks == []
    report = step(runner, lane, {ids[0]: 1, ids[2]: 1})
    assert shape_of(report) == (3, 3 * 7)
    assert list(report.token_sequence_ids) == [ids[0], ids[2]]
    assert [shape_of(step(runner, lane, {ids[2]: 1})) for _ in range(2)] == [(3, 24), (3, 27)]
    all_is_free(runner, lane)
    late = lane.admit(prompt(6), lengths(4))
    assert shape_of(step(runner, lane, {late: 6})) == (6, 6)
    finish_all(runner, lane)
    for job in lane.jobs.values():
        alone = lone_greedy(small_checkpoint, job.admission.token_ids, 12, stop_token_ids=())
        assert job.tokens == alone.tokens[: job.admission.sampling.max_tokens]


def test_who_comes_later_takes_a_dead_rows_place(assembled: Assemble) -> None:
    runner, lane = assembled(attention="padded", batching="static").runner, lane_for()
    ids = [lane.admit(prompt(4), GREEDY) for _ in range(3)]
    step(runner, lane, dict.fromkeys(ids, 4))
    assert shape_of(step(runner, lane, {ids[0]: 1}, release=tuple(ids[1:]))) == (3, 15)
    late = lane.admit(prompt(2), GREEDY)
    assert shape_of(step(runner, lane, {ids[0]: 1, late: 2})) == (6, 18)
    # One that lives but has no row in the step is not padded for.
    assert shape_of(step(runner, lane, {ids[0]: 1})) == (2, 14)


@pytest.mark.parametrize("leaves", ["released", "reset"])
def test_a_rectangle_begins_anew_after_everybody_left(assembled: Assemble, leaves: str) -> None:
    runner, lane = assembled(attention="padded", batching="static").runner, lane_for()
    ids = [lane.admit(prompt(4), GREEDY) for _ in range(3)]
    step(runner, lane, dict.fromkeys(ids, 4))
    release = ids if leaves == "released" else []
    if leaves == "reset":
        runner.reset()
    alone = lane.admit(prompt(5), GREEDY)
    assert shape_of(runner.execute(lane.command({alone: 5}, release))) == (5, 5)


def test_a_dead_row_is_computed_to_its_logits(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, lane = assembled(attention="padded", batching="static").runner, lane_for()
    ids = [lane.admit(prompt(4), GREEDY) for _ in range(3)]
    step(runner, lane, dict.fromkeys(ids, 4))
    shapes: list[tuple[int, ...]] = []
    compute = runner.executor.model.logits

    def recorded(hidden: Tensor) -> Tensor:
        logits = compute(hidden)
        shapes.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(runner.executor.model, "logits", recorded)
    report = step(runner, lane, {ids[0]: 1}, release=tuple(ids[1:]))
    assert shapes == [(3, 257)]
    assert len(report.token_ids) == 1


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that torch returns, other than views of ``known`` ones."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self._known = known
        self.numel = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            is_new = isinstance(tensor, Tensor) and (
                tensor.untyped_storage().data_ptr() not in self._known
            )
            self.numel = max(self.numel, tensor.numel() if is_new else 0)
        return result


@pytest.mark.parametrize("kernels", ["torch", "cpu"])
@pytest.mark.parametrize("attention", ["paged", "grouped", "padded"])
def test_only_padded_makes_a_tensor_of_every_row_times_the_longest_context(
    assembled: Assemble, attention: str, kernels: str
) -> None:
    runner = assembled(
        attention=attention, kernels=kernels, num_blocks=256, max_step_tokens=256
    ).runner
    lane = Lane(num_blocks=256, block_size=4)
    ids = [lane.admit(prompt(n), GREEDY) for n in (200, 3, 5, 4, 2, 6)]
    step(runner, lane, {i: lane.pending(i) for i in ids})
    known = {runner.executor.cache._blocks.untyped_storage().data_ptr()}
    with Largest(known) as largest:
        step(runner, lane, dict.fromkeys(ids, 1))
    num_kv_heads, head_dim = 2, 16
    padded = len(ids) * 201 * num_kv_heads * head_dim
    assert (largest.numel >= padded) == (attention == "padded")
