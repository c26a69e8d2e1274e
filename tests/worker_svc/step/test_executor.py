"""Steps that are launched before the tokens of the step before them were read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stepserve.protocol.step import FinishReason, Hello, StepReport
from tests.checkpoints import lone_greedy
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import (
    GREEDY,
    Launches,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
    take_all,
)
from tests.worker_svc.lane import Lane
from worker_svc.engine import Commands, Engine
from worker_svc.runner import Runner

SETTINGS = [
    {"attention": "paged"},
    {"attention": "grouped"},
    {"attention": "padded"},
    {"attention": "padded", "batching": "static"},
]


@pytest.mark.parametrize(
    ("settings", "ahead"),
    [
        *((SETTINGS[0], ahead) for ahead in (1, 3)),
        *((settings, 2) for settings in SETTINGS[1:]),
        *(
            pytest.param(settings, ahead, marks=pytest.mark.long)
            for settings in SETTINGS[1:]
            for ahead in (1, 3)
        ),
    ],
    ids=str,
)
def test_launching_ahead_keeps_every_promise(
    assembled: Assemble, small_checkpoint: Path, settings: dict[str, str], ahead: int
) -> None:
    runner = assembled(**settings, max_kept_reports=16).runner
    keep_every_promise(runner, small_checkpoint, seed=10 + ahead, ahead=ahead)


def ending(small_checkpoint: Path) -> tuple[int, list[int]]:
    """A token that is new at offset 3 of a lone run, and the run."""
    tokens = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=()).tokens
    assert tokens[3] not in tokens[:3]
    return tokens[3], tokens


@pytest.mark.parametrize("ahead", [1, 2])
def test_who_ends_in_a_step_writes_nothing_in_those_launched_since(
    runner: Runner, small_checkpoint: Path, ahead: int
) -> None:
    """The slots behind its last token are poisoned: they belong to others by now."""
    stop, tokens = ending(small_checkpoint)
    lane, launches = lane_for(), Launches(runner, ahead)
    ended = lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(stop,)))
    other = lane.admit(prompt(6), GREEDY)
    reports = launches.begin(lane.command({ended: 7, other: 6}))
    for _ in range(3):
        reports += launches.begin(lane.command({ended: 1, other: 1}))
    # The step that chose the stop token is launched, and perhaps not absorbed.
    keys, values = runner.executor.cache.layer(0)
    before = keys.clone(), values.clone()
    own_blocks = list(lane.jobs[ended].blocks)
    for _ in range(ahead):
        reports += launches.begin(lane.command({ended: 1, other: 1}))
    own_blocks += [block for block in lane.jobs[ended].blocks if block not in own_blocks]
    for now, then in zip((keys, values), before, strict=True):
        assert torch.equal(now[own_blocks], then[own_blocks])
    reports += launches.land()
    take_all(lane, reports)
    assert lane.jobs[ended].tokens == tokens[:4]
    assert lane.jobs[ended].finish is FinishReason.STOP
    assert lane.jobs[ended].blocks == []
    finish_all(runner, lane)
    all_is_free(runner, lane)


def test_blocks_named_ahead_for_who_has_ended_come_back_with_their_step(
    runner: Runner, small_checkpoint: Path
) -> None:
    stop, _ = ending(small_checkpoint)
    lane, launches = lane_for(), Launches(runner, ahead=3)
    ended = lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(stop,)))
    commands = [lane.command({ended: 7}), *(lane.command({ended: 1}) for _ in range(6))]
    reports: list[StepReport] = []
    for command in commands:
        reports += launches.begin(command)
    reports += launches.land()
    assert [report.finished for report in reports[:4]] == [
        (),
        (),
        (),
        ((ended, FinishReason.STOP),),
    ]
    held = [*commands[0].new_block_ids, *(b for c in commands[1:4] for b in c.new_block_ids)]
    assert reports[3].freed == ((ended, tuple(held)),)
    for command, report in zip(commands[4:], reports[4:], strict=True):
        named = command.new_block_ids
        assert report.freed == (((ended, named),) if named else ())
        assert report.token_ids == ()
    take_all(lane, reports)
    all_is_free(runner, lane)


def test_who_is_released_while_it_ends_is_freed_once(
    runner: Runner, small_checkpoint: Path
) -> None:
    stop, tokens = ending(small_checkpoint)
    lane, launches = lane_for(), Launches(runner, ahead=3)
    ended = lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(stop,)))
    reports = launches.begin(lane.command({ended: 7}))
    for _ in range(3):
        reports += launches.begin(lane.command({ended: 1}))
    heir = lane.admit(prompt(5), GREEDY)
    reports += launches.begin(lane.command({heir: 5}, release=[ended]))
    take_all(lane, reports + launches.land())
    assert lane.jobs[ended].tokens == tokens[:4]
    finish_all(runner, lane, depth=2, ahead=1)
    alone = lone_greedy(small_checkpoint, prompt(5), 12, stop_token_ids=()).tokens
    assert lane.jobs[heir].tokens == alone
    all_is_free(runner, lane)


async def test_an_engine_that_launches_ahead_answers_as_one_that_does_not(
    assembled: Assemble, small_checkpoint: Path
) -> None:
    stop, tokens = ending(small_checkpoint)
    assembly, commands, lane = assembled(), Commands(), Lane(64, 4)
    engine = Engine(assembly.runner, assembly.info, launch_ahead=2)
    await engine.greet(Hello(1, "test"), commands)
    job = lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(stop,)))
    coming = [await engine.begin(lane.command({job: 7}), commands)]
    sent = [lane.command({job: 1}) for _ in range(5)]
    coming += [await engine.begin(command, commands) for command in sent]
    again = await engine.begin(sent[-1], commands)
    reports = [await report for report in coming]
    assert await again is reports[-1]
    take_all(lane, reports)
    assert lane.jobs[job].tokens == tokens[:4]
    all_is_free(assembly.runner, lane)
    await engine.drain(1.0)


async def test_a_hello_finds_every_launched_step_absorbed(
    assembled: Assemble, small_checkpoint: Path
) -> None:
    assembly, lane = assembled(), Lane(64, 4)
    engine = Engine(assembly.runner, assembly.info, launch_ahead=3)
    await engine.greet(Hello(1, "first"), first := Commands())
    job = lane.admit(prompt(7), GREEDY)
    sent = [lane.command({job: 7}), *(lane.command({job: 1}) for _ in range(3))]
    for command in sent:
        await engine.begin(command, first)
    reply, _ = await engine.greet(Hello(2, "second"), second := Commands())
    assert reply.last_step == 4
    assert reply.sequences[0].num_tokens == 11
    reports = [await engine.execute(replace(command, epoch=2), second) for command in sent]
    take_all(lane, reports)
    assert (
        lane.jobs[job].tokens
        == lone_greedy(small_checkpoint, prompt(7), 4, stop_token_ids=()).tokens
    )
    await engine.begin(replace(lane.command({job: 1}), epoch=2), second)
    reply, _ = await engine.greet(Hello(3, "third", reset=True), Commands())
    assert (reply.last_step, reply.sequences) == (5, ())
    await engine.drain(1.0)
