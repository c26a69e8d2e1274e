"""Steps that are recorded once and replayed: the same as computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.checkpoints import lone_greedy, lone_logits
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import (
    GREEDY,
    all_is_free,
    finish_all,
    keep_every_promise,
    lane_for,
    prompt,
)
from tests.worker_svc.step.recorded import HostRead, record, recordable
from worker_svc.core.limits import Limits
from worker_svc.runner import Runner
from worker_svc.step.graphs import Bucket, GraphedSteps, buckets_for
from worker_svc.step.sampler import Sampler


def with_graphs(assembled: Assemble, kernels: str, **settings: object) -> Runner:
    """A runner whose every step is the replay of a recording, where one is large enough."""
    runner = assembled(kernels=kernels, **settings).runner
    executor = runner.executor
    executor.model.kernels = recordable(executor.model.kernels)
    executor.sampler = Sampler(executor.table, executor.model.kernels)
    limits = Limits(257, 512, 4, 64, 6, 64)
    executor.graphs = GraphedSteps(
        executor.model, executor.cache, executor.table, executor.sampler, buckets_for(limits)
    )
    for bucket in executor.graphs.capture(record):
        assert bucket.num_rows <= 6
    return runner


@pytest.mark.parametrize("kernels", ["torch", "cpu"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_replayed_steps_keep_every_promise(
    assembled: Assemble, small_checkpoint: Path, kernels: str, ahead: int
) -> None:
    runner = with_graphs(assembled, kernels, max_kept_reports=16)
    keep_every_promise(runner, small_checkpoint, seed=41 + ahead, ahead=ahead)


def test_a_replay_is_not_a_computation_anew(assembled: Assemble) -> None:
    """The decoder is not called, and reads of the device are found while recording."""
    runner = with_graphs(assembled, "torch")
    runner.executor.model.forward = None  # type: ignore[assignment]
    lane = lane_for()
    lane.admit(prompt(7), GREEDY)
    finish_all(runner, lane)
    all_is_free(runner, lane)
    with pytest.raises(HostRead):
        record(lambda: int(torch.ones(1)))


def test_a_prompt_is_scored_whether_a_graph_holds_its_tokens_or_not(
    assembled: Assemble, small_checkpoint: Path
) -> None:
    """Room in it is for six states: of chunks of 3 tokens beside others, not of one of 8."""
    runner = with_graphs(assembled, "torch")
    for chunk in (1, 3, 8):
        lane, token_ids = lane_for(), prompt(20, chunk)
        job = lane.jobs[lane.admit(token_ids, replace(GREEDY, logprobs=0, prompt_logprobs=0))]
        lane.admit(prompt(9), GREEDY)
        finish_all(runner, lane, depth=2, chunk=chunk, ahead=1)
        lone = lone_logits(small_checkpoint, token_ids).log_softmax(-1)
        own = [float(lone[at, token_id]) for at, token_id in enumerate(token_ids[1:])]
        assert job.logprobs[0].prompt is not None
        told = [each.logprob for each in job.logprobs[0].prompt]
        assert told == pytest.approx(own, abs=1e-6)
        assert job.tokens == lone_greedy(small_checkpoint, token_ids, 12, stop_token_ids=()).tokens


def test_a_step_goes_to_the_smallest_graph_that_holds_it() -> None:
    limits = Limits(100, 40960, 16, 99, 100, 8192)
    buckets = buckets_for(limits)
    decodes = [bucket for bucket in buckets if bucket.max_query_len == 1]
    assert sorted({b.num_rows for b in decodes}) == [
        1,
        2,
        4,
        8,
        16,
        32,
        40,
        48,
        56,
        64,
        72,
        80,
        88,
        96,
        100,
    ]
    assert {bucket.max_context_len for bucket in buckets} == {4096, 40960}
    assert Bucket(2048, 100, 2048, 40960) in buckets
    sizes = [(bucket.num_tokens, bucket.max_context_len) for bucket in decodes]
    assert sizes == sorted(sizes)
