"""A prompt's log-probabilities are those of transformers over the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason, TokenLogprobs
from tests.checkpoints import lone_logits
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import GREEDY, finish_all, lane_for, prompt
from worker_svc.runner import Runner
from worker_svc.step.scores import MAX_AT_ONCE

SCORED = replace(GREEDY, max_tokens=2, logprobs=0, prompt_logprobs=3)
WAYS = {
    "paged": {},
    "grouped": {"attention": "grouped"},
    "padded": {"attention": "padded"},
    "padded-static": {"attention": "padded", "batching": "static"},
}


def check(
    checkpoint: Path, token_ids: Sequence[int], first: TokenLogprobs, num_top: int = 3
) -> None:
    expected = lone_logits(checkpoint, token_ids).log_softmax(-1)[:-1]
    assert first.prompt is not None
    told = list(first.prompt)
    own = expected.gather(1, torch.tensor(token_ids[1:])[:, None]).squeeze(1)
    assert [each.logprob for each in told] == pytest.approx(own.tolist(), abs=1e-6)
    for each, row, token_id in zip(told, expected, token_ids[1:], strict=True):
        assert [value for _, value in each.top] == pytest.approx(
            row.topk(num_top).values.tolist(), abs=1e-6
        )
        for likely, value in each.top:
            assert value == pytest.approx(float(row[likely]), abs=1e-6)
            assert likely != token_id or value == each.logprob, "the same token, the same number"


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_in_chunks_beside_others_has_those_of_transformers(
    assembled: Assemble, small_checkpoint: Path, way: str
) -> None:
    lane = lane_for()
    long, short = prompt(30, 1), prompt(2, 2)
    lane.admit(prompt(9, 3), GREEDY)
    scored = lane.admit(long, SCORED)
    lane.admit(prompt(17, 4), replace(GREEDY, logprobs=2))
    fewer = lane.admit(short, replace(SCORED, logprobs=1, prompt_logprobs=1))
    finish_all(assembled(**WAYS[way]).runner, lane, depth=2, chunk=4, ahead=1)
    check(small_checkpoint, long, lane.jobs[scored].logprobs[0])
    check(small_checkpoint, short, lane.jobs[fewer].logprobs[0], num_top=1)
    told = [entry.prompt is not None for job in lane.jobs.values() for entry in job.logprobs]
    assert told.count(True) == 2, "with the first token, and of those who asked"


def test_more_than_are_scored_at_once(assembled: Assemble, small_checkpoint: Path) -> None:
    lane, token_ids = lane_for(), prompt(2 * MAX_AT_ONCE + 3, 5)
    job = lane.jobs[lane.admit(token_ids, SCORED)]
    finish_all(assembled(max_step_tokens=256).runner, lane, chunk=256)
    check(small_checkpoint, token_ids, job.logprobs[0])


def test_a_prompt_of_one_token_has_none(runner: Runner) -> None:
    lane = lane_for()
    job = lane.jobs[lane.admit([5], SCORED)]
    finish_all(runner, lane)
    assert job.logprobs[0].prompt is not None
    assert list(job.logprobs[0].prompt) == []


def test_who_comes_again_is_scored_again_unless_it_has_output(
    runner: Runner, small_checkpoint: Path
) -> None:
    lane, token_ids = lane_for(), prompt(20, 6)
    left = lane.admit(token_ids, SCORED)
    lane.take(runner.execute(lane.command({left: 9})))
    lane.take(runner.execute(lane.command({}, [left])))
    again = lane.admit(token_ids, SCORED)
    resumed = lane.admit(token_ids, SCORED, output=[7])
    lane.jobs[left].freed = True
    finish_all(runner, lane, chunk=6)
    check(small_checkpoint, token_ids, lane.jobs[again].logprobs[0])
    assert [entry.prompt for entry in lane.jobs[resumed].logprobs] == [None]


@pytest.mark.parametrize(
    ("sampling", "shared", "problem"),
    [
        (SCORED, (4, (0,)), "is computed from its beginning"),
        (replace(SCORED, logprobs=-1), (0, ()), "come with logprobs"),
    ],
)
def test_what_cannot_be_told_is_refused(
    runner: Runner, sampling: Sampling, shared: tuple[int, Sequence[int]], problem: str
) -> None:
    lane = lane_for()
    if shared[1]:
        assert lane.pool.allocate(1) == list(shared[1])
    sequence_id = lane.admit(prompt(9), sampling, shared=shared)
    with pytest.raises(StepRefused, match=problem):
        runner.execute(lane.command({sequence_id: 2}))


def test_a_prompt_without_probabilities_ends_as_its_tokens_do(assembled: Assemble) -> None:
    """A token that nothing attends to any more may be the only one whose logits are not finite."""
    runner, lane = assembled().runner, lane_for()
    ill = lane.admit([5, 200, 7, 9], SCORED)
    plan = runner.plan(lane.command({ill: 4}))
    chosen = runner.launch(plan).wait()
    [scores] = chosen.scores
    broken = replace(scores, logprobs=b"\0\0\xc0\x7f" + scores.logprobs[4:])
    report = runner.absorb(plan, replace(chosen, scores=[broken]))
    assert report.finished == ((ill, FinishReason.ERROR),)
    assert report.token_ids == ()
