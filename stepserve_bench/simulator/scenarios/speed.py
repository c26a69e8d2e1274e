"""Experiments on throughput and latency: how batches are formed, attended and filled."""

from __future__ import annotations

import random

from stepserve_bench.report.targets import Target
from stepserve_bench.simulator.collected import Collected, capacity
from stepserve_bench.simulator.scenarios.ground import Ground, Verdict
from stepserve_bench.simulator.streams import Stream
from stepserve_bench.workloads.arrivals import ClosedLoop, Poisson
from stepserve_bench.workloads.jobs import static_bound
from stepserve_bench.workloads.lengths import FixedLengths

_STATIC = {"batching": "static", "attention": "padded"}
_CONTINUOUS = {"batching": "continuous", "attention": "paged"}
_FEW_TOKENS = 8


def throughput(ground: Ground) -> Verdict:
    """Continuous over static requests/s, with everything there at the start.

    What batching alone makes of the workload's bound is judged beside static batches that are
    attended alike.
    """
    padded, continuous = ground.saturate(**_STATIC), ground.saturate(**_CONTINUOUS)
    paged = ground.saturate(batching="static", attention="paged")
    bound = static_bound(_outputs(ground), ground.system.max_batch_size)
    over_paged = capacity(continuous) / capacity(paged)
    return Verdict(
        name="throughput",
        targets=(
            Target(
                claim="requests/s at saturation, continuous+paged over static+padded",
                value=capacity(continuous) / capacity(padded),
                bound=2.3,
                limit=f"the workload's own bound is {bound:.2f}, and fuller steps take longer: "
                f"{_step(continuous)}, static {_step(padded)}",
            ),
            Target(
                claim="continuous+paged over static+paged, as a share of the workload's own bound",
                value=over_paged / bound,
                bound=0.85,
                limit=f"fuller steps take longer: {_step(continuous)}, static {_step(paged)}",
            ),
        ),
        details={
            "bound_of_the_workload": bound,
            "continuous_paged_over_static_paged": over_paged,
            "share_of_the_bound_in_steps": paged.step_us.count / continuous.step_us.count / bound,
            "static_padded_requests_per_s": capacity(padded),
            "static_paged_requests_per_s": capacity(paged),
            "continuous_paged_requests_per_s": capacity(continuous),
            "static_padded_step_ms": padded.step_us.mean / 1e3,
            "static_paged_step_ms": paged.step_us.mean / 1e3,
            "continuous_paged_step_ms": continuous.step_us.mean / 1e3,
        },
    )


def _outputs(ground: Ground) -> list[int]:
    """Return the output lengths of the runs' jobs, in their order."""
    chance = random.Random(f"{ground.runner.seed} 0 jobs")
    return [ground.lengths.draw(chance)[1] for _ in range(ground.num_jobs)]


def _step(run: Collected) -> str:
    figures = run.figures()
    return f"{figures['step_ms_mean']:.2f} ms with {figures['rows_per_step']:.1f} rows"


def latency(ground: Ground) -> Verdict:
    """Mean latency of both under the same Poisson load, 80 % of what static can do."""
    rate = 0.8 * capacity(ground.saturate(**_STATIC))
    static, continuous = ground.poisson(rate, **_STATIC), ground.poisson(rate, **_CONTINUOUS)
    means_s = [run.figures()["latency_s_mean"] for run in (static, continuous)]
    return Verdict(
        name="latency",
        targets=(
            Target(
                claim="mean latency at 80 % of static's capacity, continuous+paged below static",
                value=1.0 - means_s[1] / means_s[0],
                bound=0.40,
                limit=f"a step takes {_step(continuous)}, static {_step(static)}",
            ),
        ),
        details={
            "rate": rate,
            "static_latency_s_mean": means_s[0],
            "continuous_latency_s_mean": means_s[1],
        },
    )


def paging(ground: Ground) -> Verdict:
    """Paged attention over padded, both continuous, at saturation.

    A rectangle is as wide as its longest row: padded is judged by the better of its budgets,
    the system's, which takes most prompts whole, and one that lets hardly more than the decodes
    into a step.
    """
    budget = ground.system.max_batch_size + _FEW_TOKENS
    padded = ground.saturate(batching="continuous", attention="padded")
    split = ground.saturate(batching="continuous", attention="padded", max_step_tokens=budget)
    best = max(capacity(padded), capacity(split))
    grouped = ground.saturate(batching="continuous", attention="grouped")
    paged = ground.saturate(**_CONTINUOUS)
    return Verdict(
        name="paging",
        targets=(
            Target(
                claim="requests/s at saturation, continuous+paged over the better of "
                "continuous+padded and continuous+padded+split-fuse",
                value=capacity(paged) / best,
                bound=1.25,
                limit="what a step reads and computes for no padding takes most of its time: "
                f"{_step(paged)}, padded {_step(padded)} or split {_step(split)}",
            ),
        ),
        details={
            "over_padded": capacity(paged) / capacity(padded),
            "over_padded_split_fuse": capacity(paged) / capacity(split),
            "split_fuse_step_tokens": budget,
            "padded_share": padded.figures()["padded_share"],
            "padded_split_fuse_share": split.figures()["padded_share"],
            "padded_requests_per_s": capacity(padded),
            "padded_split_fuse_requests_per_s": capacity(split),
            "grouped_requests_per_s": capacity(grouped),
            "paged_requests_per_s": capacity(paged),
        },
    )


def split_fuse(ground: Ground) -> Verdict:
    """Time between tokens while long prompts arrive among decodes, split or whole.

    Decoding clients fill three quarters of the places; a long prompt, half the context, comes
    in one of 25 steps. Whole, it is computed in one step, and everybody waits for it.
    """
    system = ground.system
    num_clients = max(1, system.max_batch_size * 3 // 4)
    decoding = ground.stream(arrivals=ClosedLoop(num_clients))
    prompt = system.max_context // 2
    alone = ground.run(decoding)
    rate = 1e6 / alone.step_us.mean / 25
    storm = Stream(
        arrivals=Poisson(rate),
        lengths=FixedLengths(prompt, 16),
        num_jobs=10**9,
        until_s=alone.last_end_s,
    )
    budget = max(system.max_batch_size + 64, prompt // 16)
    whole = ground.run(decoding, storm, max_step_tokens=prompt + system.max_batch_size)
    split = ground.run(decoding, storm, max_step_tokens=budget)
    return Verdict(
        name="split-fuse",
        targets=(
            Target(
                claim="p99 time between tokens, whole prompts over split ones",
                value=_gap_ms_p99(whole) / _gap_ms_p99(split),
                bound=3.0,
                limit=f"a chunk makes a step longer, too: {_gap_ms_p99(alone):.1f} ms with none",
            ),
            Target(
                claim="share of requests/s that splitting costs",
                value=1.0 - _requests_per_s(split) / _requests_per_s(whole),
                bound=0.05,
                is_ceiling=True,
                limit="every chunk reads the weights and its prompt's context again",
            ),
        ),
        details={
            "long_prompt_tokens": prompt,
            "long_prompts_per_s": rate,
            "split_step_tokens": budget,
            "whole_itl_ms_p99": _gap_ms_p99(whole),
            "split_itl_ms_p99": _gap_ms_p99(split),
        },
    )


def _gap_ms_p99(run: Collected) -> float:
    return run.groups[0].gap_s.quantile(0.99) * 1e3


def _requests_per_s(run: Collected) -> float:
    return run.num_ended / run.span_s
