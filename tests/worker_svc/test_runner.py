"""Steps on a real model: the same tokens as transformers, and every block accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stepserve.protocol.errors import StepRefused
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason
from tests.checkpoints import lone_greedy
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import (
    GREEDY,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
)
from worker_svc.runner import Runner


def test_a_lone_prompt_gets_the_tokens_of_transformers(
    runner: Runner, small_checkpoint: Path
) -> None:
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), GREEDY)]
    finish_all(runner, lane)
    assert job.tokens == lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=()).tokens
    assert job.finish is FinishReason.LENGTH
    all_is_free(runner, lane)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_any_batching_gives_the_tokens_of_a_lone_run(
    runner: Runner, small_checkpoint: Path, depth: int
) -> None:
    lane = lane_for()
    lone = {n: lone_greedy(small_checkpoint, prompt(n), 12).tokens for n in (1, 5, 9, 16, 23)}
    for length in (1, 5, 9):
        lane.admit(prompt(length), replace(GREEDY, stop_token_ids=(0,)))
    lane.take(runner.execute(lane.command({1: 1, 3: 4})))
    for length in (16, 23):
        lane.admit(prompt(length), replace(GREEDY, stop_token_ids=(0,)))
    finish_all(runner, lane, depth, chunk=6)
    for job in lane.jobs.values():
        assert job.tokens == lone[job.admission.num_prompt_tokens]
    all_is_free(runner, lane)


def test_a_stop_token_ends_a_sequence_that_the_next_step_names_already(
    runner: Runner, small_checkpoint: Path
) -> None:
    expected = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=()).tokens
    stop = expected[3]
    lane = lane_for()
    ended = lane.admit(prompt(7), replace(GREEDY, stop_token_ids=(stop,)))
    other = lane.admit(prompt(6), GREEDY)
    lane.take(runner.execute(lane.command({ended: 7, other: 6})))
    while lane.jobs[ended].finish is None:
        first = lane.command({ended: 1, other: 1})
        ahead = lane.command({ended: 1, other: 1})
        # The blocks of the step ahead are on their way when the first one ends it.
        report = runner.execute(first)
        lane.take(report)
        report_ahead = runner.execute(ahead)
        lane.take(report_ahead)
    assert lane.jobs[ended].tokens == expected[: expected.index(stop) + 1]
    assert lane.jobs[ended].finish is FinishReason.STOP
    assert lane.jobs[ended].blocks == []
    assert other in report_ahead.token_sequence_ids
    finish_all(runner, lane)
    all_is_free(runner, lane)


def test_blocks_named_for_an_ended_sequence_come_back_in_that_step(runner: Runner) -> None:
    lane = lane_for()
    ended = lane.admit(prompt(4), Sampling(max_tokens=1, temperature=0.0))
    prefill, ahead = lane.command({ended: 4}), lane.command({ended: 1})
    assert len(ahead.new_block_ids) == 1
    assert runner.execute(prefill).freed == ((ended, prefill.new_block_ids),)
    report = runner.execute(ahead)
    assert report.freed == ((ended, ahead.new_block_ids),)
    assert (report.token_ids, report.finished) == ((), ())


def test_an_end_is_remembered_only_until_it_is_committed(runner: Runner) -> None:
    lane = lane_for()
    ended = lane.admit(prompt(4), Sampling(max_tokens=1, temperature=0.0))
    lane.take(runner.execute(lane.command({ended: 4})))
    runner.execute(replace(lane.command({}), committed_step=lane.committed))
    with pytest.raises(StepRefused, match="unknown"):
        runner.execute(lane.command({ended: 1}))


def test_tokens_that_came_with_the_admission_count(runner: Runner, small_checkpoint: Path) -> None:
    expected = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=()).tokens
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), GREEDY, output=expected[:5])]
    finish_all(runner, lane)
    assert job.tokens == expected
    assert job.finish is FinishReason.LENGTH


def test_the_context_limit_ends_a_sequence(assembled: Assemble) -> None:
    runner = assembled(max_context=10).runner
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), GREEDY)]
    lane.take(runner.execute(lane.command({1: 7})))
    while job.finish is None:
        lane.take(runner.execute(lane.command({1: 1})))
    assert job.finish is FinishReason.LENGTH
    assert len(job.tokens) == 3
    all_is_free(runner, lane)


def test_a_prefix_in_the_cache_is_not_computed_again(
    runner: Runner, small_checkpoint: Path
) -> None:
    lane = lane_for()
    first = lane.admit(prompt(11), replace(GREEDY, max_tokens=40))
    lane.take(runner.execute(lane.command({first: 11})))
    shared = lane.jobs[first].blocks[:2]
    second = lane.admit([*prompt(11)[:8], 9, 9], GREEDY, shared=(8, shared))
    lane.take(runner.execute(lane.command({second: 2})))
    assert [r.num_computed for r in runner.residents()] == [11, 10]
    finish_all(runner, lane)
    expected = lone_greedy(small_checkpoint, [*prompt(11)[:8], 9, 9], 12, stop_token_ids=())
    assert lane.jobs[second].tokens == expected.tokens
    all_is_free(runner, lane)


def test_released_sequences_give_back_their_blocks_and_their_line(runner: Runner) -> None:
    lane = lane_for()
    for _ in range(4):
        ids = [lane.admit(prompt(9, seed), GREEDY) for seed in range(6)]
        lane.take(runner.execute(lane.command(dict.fromkeys(ids, 5))))
        report = runner.execute(lane.command({}, release=ids))
        assert [sequence_id for sequence_id, _ in report.freed] == ids
        lane.take(report)
        all_is_free(runner, lane)


def test_release_of_one_that_has_ended_or_never_was_is_nothing(runner: Runner) -> None:
    lane = lane_for()
    ended = lane.admit(prompt(4), Sampling(max_tokens=1, temperature=0.0))
    lane.take(runner.execute(lane.command({ended: 4})))
    assert runner.execute(lane.command({}, release=[ended, 77])).freed == ()


def test_a_released_sequence_that_computed_nothing_is_reported_too(runner: Runner) -> None:
    lane = lane_for()
    waiting = lane.admit(prompt(4), GREEDY)
    runner.execute(lane.command({}))
    assert runner.execute(lane.command({}, release=[waiting])).freed == ((waiting, ()),)


def test_a_place_released_in_a_command_is_free_for_its_admissions(runner: Runner) -> None:
    lane = lane_for()
    ids = [lane.admit(prompt(3, seed), GREEDY) for seed in range(6)]
    lane.take(runner.execute(lane.command(dict.fromkeys(ids, 3))))
    late = lane.admit(prompt(5), GREEDY)
    lane.take(runner.execute(lane.command({late: 5}, release=ids[:1])))
    assert [r.sequence_id for r in runner.residents()] == [*ids[1:], late]


def test_a_step_may_be_empty(runner: Runner) -> None:
    report = runner.execute(lane_for().command({}))
    assert (report.step, report.token_ids, report.freed) == (1, (), ())


def test_residents_are_described(runner: Runner) -> None:
    lane = lane_for()
    sequence_id = lane.admit(prompt(6), GREEDY, index=2)
    lane.take(runner.execute(lane.command({sequence_id: 6})))
    (resident,) = runner.residents()
    assert (resident.job_id, resident.index) == ("job-1", 2)
    assert (resident.num_tokens, resident.num_computed) == (7, 6)
    assert list(resident.block_ids) == lane.jobs[sequence_id].blocks
    runner.reset()
    assert runner.residents() == ()


def test_logits_that_are_not_finite_end_their_own_sequence_alone(
    assembled: Assemble, small_checkpoint: Path
) -> None:
    runner = assembled().runner
    poison = 200
    runner.executor.model._weights.embedding[poison] = torch.nan
    lane = lane_for()
    sound = [lane.admit([5, 6, 7], GREEDY), lane.admit([5, 6, 7], replace(GREEDY, temperature=0.9))]
    samplings = (GREEDY, replace(GREEDY, temperature=0.9, top_p=0.9, logprobs=2))
    ill = [lane.admit([5, poison, 7], sampling) for sampling in samplings]
    report = runner.execute(lane.command(dict.fromkeys([*ill, *sound], 3)))
    assert report.token_sequence_ids == tuple(sound)
    assert report.finished == tuple((i, FinishReason.ERROR) for i in ill)
    assert [sequence_id for sequence_id, _ in report.freed] == ill
    lane.take(report)
    expected = lone_greedy(small_checkpoint, [5, 6, 7], 1)
    assert lane.jobs[sound[0]].tokens == expected.tokens


SAMPLINGS: Sequence[Sampling] = (
    GREEDY,
    Sampling(max_tokens=12, temperature=1.3, seed=7, logprobs=3),
    Sampling(max_tokens=12, temperature=0.7, top_p=0.8, top_k=40, seed=2**64 - 1),
    Sampling(max_tokens=12, temperature=1.0, min_p=0.05, repetition_penalty=1.2, seed=9),
    Sampling(max_tokens=12, temperature=0.0, frequency_penalty=0.7, logit_bias=((9, 2.5),)),
    Sampling(max_tokens=12, temperature=1.0, presence_penalty=1.5, seed=7, logprobs=0),
)


def test_sampled_jobs_get_the_same_tokens_alone_in_a_batch_and_resumed(runner: Runner) -> None:
    together = lane_for()
    for seed, sampling in enumerate(SAMPLINGS):
        together.admit(prompt(5 + seed, seed), sampling, index=seed)
    finish_all(runner, together, depth=2, chunk=4)
    for seed, sampling in enumerate(SAMPLINGS):
        expected = together.jobs[seed + 1]
        for num_before in (0, 5):
            alone = lane_for()
            before = expected.tokens[:num_before]
            alone.admit(prompt(5 + seed, seed), sampling, output=before, index=seed)
            finish_all(runner, alone)
            assert alone.jobs[1].tokens == expected.tokens
            for got, want in zip(
                reversed(alone.jobs[1].logprobs), reversed(expected.logprobs), strict=False
            ):
                assert got.logprob == pytest.approx(want.logprob, abs=1e-9)
                assert [i for i, _ in got.top] == [i for i, _ in want.top]


def test_logprobs_are_those_of_transformers(runner: Runner, small_checkpoint: Path) -> None:
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), replace(GREEDY, logprobs=3))]
    finish_all(runner, lane)
    lone = lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=())
    assert [step.logprob for step in job.logprobs] == pytest.approx(lone.logprobs, abs=1e-5)
    for token_id, step in zip(job.tokens, job.logprobs, strict=True):
        assert step.top[0] == (token_id, step.logprob)
        assert len(step.top) == 3
        assert [p for _, p in step.top] == sorted((p for _, p in step.top), reverse=True)


def test_a_random_schedule_keeps_every_promise(runner: Runner, small_checkpoint: Path) -> None:
    keep_every_promise(runner, small_checkpoint, seed=5)


def test_a_worker_warms_up_within_the_smallest_limits(assembled: Assemble) -> None:
    runner = assembled(
        block_size=1, num_blocks=2, max_step_tokens=1, max_context=2, max_batch_size=1
    ).runner
    assert runner.residents() == ()
