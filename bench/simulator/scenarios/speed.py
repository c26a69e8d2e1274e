"""Experiments on throughput and latency: how batches are formed, attended and filled."""

from __future__ import annotations

import random
from itertools import islice

from bench.lengths import FixedLengths
from bench.simulator.arrivals import ClosedLoop, Poisson
from bench.simulator.collected import Collected, capacity
from bench.simulator.scenarios.ground import Ground, Target, Verdict
from bench.simulator.workload import Stream

_STATIC = {"batching": "static", "attention": "padded"}
_CONTINUOUS = {"batching": "continuous", "attention": "paged"}


def static_bound(ground: Ground) -> float:
    """Return what the lengths alone allow: longest over mean output, mean of static batches.

    While the longest of a batch runs, a static batch computes as many steps as that has tokens;
    with every place filled again at once, those steps would have ended so many times the jobs.
    """
    chance = random.Random(f"{ground.runner.seed} 0 jobs")  # The jobs of the runs.
    outputs = [ground.lengths.draw(chance)[1] for _ in range(ground.num_jobs)]
    size = ground.system.max_batch_size
    rest = iter(outputs)
    longest = [max(batch) for batch in iter(lambda: list(islice(rest, size)), [])]
    mean = sum(outputs) / len(outputs)
    return sum(longest) / len(longest) / mean


def throughput(ground: Ground) -> Verdict:
    """Continuous over static requests/s, with everything there at the start."""
    static, continuous = ground.saturate(**_STATIC), ground.saturate(**_CONTINUOUS)
    static_paged = ground.saturate(batching="static", attention="paged")
    bound = static_bound(ground)
    ratio = capacity(continuous) / capacity(static)
    return Verdict(
        name="throughput",
        targets=(
            Target(
                claim="requests/s at saturation, continuous+paged over static+padded",
                value=ratio,
                bound=2.3,
            ),
            Target(claim="share of the workload's own bound", value=ratio / bound, bound=0.85),
        ),
        details={
            "bound_of_the_workload": bound,
            "over_static_paged": capacity(continuous) / capacity(static_paged),
            "static_requests_per_s": capacity(static),
            "continuous_requests_per_s": capacity(continuous),
            "static_step_ms": static.step_us.mean / 1e3,
            "continuous_step_ms": continuous.step_us.mean / 1e3,
        },
    )


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
            ),
        ),
        details={
            "rate": rate,
            "static_latency_s_mean": means_s[0],
            "continuous_latency_s_mean": means_s[1],
        },
    )


def paging(ground: Ground) -> Verdict:
    """Paged attention over padded, both continuous, at saturation."""
    padded = ground.saturate(batching="continuous", attention="padded")
    grouped = ground.saturate(batching="continuous", attention="grouped")
    paged = ground.saturate(**_CONTINUOUS)
    return Verdict(
        name="paging",
        targets=(
            Target(
                claim="requests/s at saturation, continuous+paged over continuous+padded",
                value=capacity(paged) / capacity(padded),
                bound=1.25,
            ),
        ),
        details={
            "padded_share": padded.figures()["padded_share"],
            "padded_requests_per_s": capacity(padded),
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
    decoding = Stream(
        arrivals=ClosedLoop(max(1, system.max_batch_size * 3 // 4)),
        lengths=ground.lengths,
        num_jobs=ground.num_jobs,
    )
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
            ),
            Target(
                claim="share of requests/s that splitting costs",
                value=1.0 - _requests_per_s(split) / _requests_per_s(whole),
                bound=0.05,
                is_ceiling=True,
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
