"""Commands that cannot be done: refused with a reason, and nothing is changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand
from tests.worker_svc.drive import GREEDY, all_is_free, finish_all, lane_for, prompt
from worker_svc.runner import Runner

ROW = {"row_sequence_ids": (1,), "row_num_tokens": (1,), "row_num_new_blocks": (0,)}
INVALID_ROWS: dict[str, dict[str, Any]] = {
    "is unknown": {**ROW, "row_sequence_ids": (9,)},
    "a row of 4 tokens, 3 are pending": {**ROW, "row_num_tokens": (4,)},
    "a row of 0 tokens": {**ROW, "row_num_tokens": (0,)},
    "two rows": {key: value * 2 for key, value in ROW.items()},
    "9 tokens do not fit 2 blocks": {**ROW, "row_num_tokens": (3,)},
    "is not below 64": {**ROW, "row_num_new_blocks": (1,), "new_block_ids": (64,)},
    "at most": {**ROW, "row_num_new_blocks": (200,), "new_block_ids": (1,) * 200},
    "65 tokens, 64 at most": {**ROW, "row_num_tokens": (65,)},
}
INVALID_ADMISSIONS: dict[str, dict[str, Any]] = {
    "admitted twice": {"sequence_id": 1},
    "id below": {"sequence_id": 2**31},
    "there is room for another": {"token_ids": (1,) * 256, "num_prompt_tokens": 256},
    "0 prompt tokens": {"num_prompt_tokens": 0},
    "4 prompt tokens of 3": {"num_prompt_tokens": 4},
    "max_tokens is reached": {"num_prompt_tokens": 1, "sampling": Sampling(max_tokens=2)},
    "3 tokens computed of 3": {"num_computed": 3, "block_ids": (9,)},
    "than its blocks hold": {"num_computed": 2},
    "not in the vocabulary": {"token_ids": (1, 2, 257)},
    "a block id is not below": {"block_ids": (64,)},
    "more blocks than": {"block_ids": (1,) * 65},
    "not inf": {"sampling": Sampling(max_tokens=2, temperature=float("inf"))},
    "temperature": {"sampling": Sampling(max_tokens=2, temperature=-1.0)},
    "top_p": {"sampling": Sampling(max_tokens=2, top_p=0.0)},
    "min_p": {"sampling": Sampling(max_tokens=2, min_p=float("nan"))},
    "repetition_penalty": {"sampling": Sampling(max_tokens=2, repetition_penalty=0.0099)},
    "logprobs": {"sampling": Sampling(max_tokens=2, logprobs=21)},
    "stop token ids": {"sampling": Sampling(max_tokens=2, stop_token_ids=tuple(range(113)))},
    "tokens are biased": {
        "sampling": Sampling(max_tokens=2, logit_bias=tuple((i % 257, 1.0) for i in range(1025)))
    },
    "biased token id": {"sampling": Sampling(max_tokens=2, logit_bias=((257, 1.0),))},
    "biased twice": {"sampling": Sampling(max_tokens=2, logit_bias=((1, 1.0), (1, 2.0)))},
}


def invalid_commands() -> list[tuple[str, StepCommand]]:
    """Each of them also holds something that could be done: it must not be."""
    lane = lane_for()
    lane.admit(prompt(3), GREEDY)
    (good,) = lane.command({}).admissions
    good = replace(good, sequence_id=7)
    command = StepCommand(epoch=1, incarnation="me", step=2, release_ids=(2,), admissions=(good,))
    rows = [(reason, replace(command, **change)) for reason, change in INVALID_ROWS.items()]
    bad = replace(good, sequence_id=8)
    return rows + [
        (reason, replace(command, admissions=(good, replace(bad, **change))))
        for reason, change in INVALID_ADMISSIONS.items()
    ]


def test_an_invalid_command_is_refused_and_changes_nothing(runner: Runner) -> None:
    lane = lane_for()
    lane.admit(prompt(9), GREEDY)
    lane.admit(prompt(6), GREEDY)
    lane.take(runner.execute(lane.command({1: 6, 2: 6})))
    before = runner.residents()
    for reason, command in invalid_commands():
        with pytest.raises(StepRefused, match=reason):
            runner.execute(command)
        assert runner.residents() == before
    lane.take(runner.execute(lane.command({1: 3, 2: 1})))
    finish_all(runner, lane)
    all_is_free(runner, lane)


def test_more_sequences_than_places_are_refused(runner: Runner) -> None:
    lane = lane_for()
    for seed in range(7):
        lane.admit(prompt(3, seed), GREEDY)
    with pytest.raises(StepRefused, match="7 sequences, 6 at most"):
        runner.execute(lane.command({}))
    assert runner.residents() == ()


def test_who_left_is_told_of_until_the_step_is_committed(runner: Runner) -> None:
    lane = lane_for()
    ended = lane.admit(prompt(3), replace(GREEDY, max_tokens=1))
    released = lane.admit(prompt(5), GREEDY)
    lane.take(runner.execute(lane.command({ended: 3, released: 5})))
    assert [(s.sequence_id, s.block_ids) for s in runner.departed()] == [(ended, ())]
    leaving = StepCommand(1, "me", 2, committed_step=0, release_ids=(released,))
    runner.execute(leaving)
    assert [s.sequence_id for s in runner.departed()] == [ended, released]
    runner.execute(StepCommand(1, "me", 3, committed_step=1))
    assert [s.sequence_id for s in runner.departed()] == [released]
    runner.execute(StepCommand(1, "me", 4, committed_step=2))
    assert runner.departed() == ()
    assert runner.last_sequence_id == released


def test_nobody_is_told_of_after_a_reset(runner: Runner) -> None:
    lane = lane_for()
    ended = lane.admit(prompt(3), replace(GREEDY, max_tokens=1))
    lane.take(runner.execute(lane.command({ended: 3})))
    runner.reset()
    assert (runner.departed(), runner.last_sequence_id) == ((), ended)
