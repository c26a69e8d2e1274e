"""The experiment on memory pressure: what preemption costs when blocks are what is short."""

from __future__ import annotations

from dataclasses import replace

from stepserve_bench.report.targets import Target
from stepserve_bench.simulator.collected import Collected, capacity
from stepserve_bench.simulator.scenarios.ground import Ground, Verdict

_BLOCK_USE, _REACHED = 0.95, 0.94
_MAX_TOKENS = 1024
_NUM_HALVINGS = 7


def computed_twice(ground: Ground) -> Verdict:
    """Tokens computed twice at the Poisson rate at which 95 % of the blocks are held.

    There are places for four times as many as the blocks are for, so that blocks decide. Jobs
    ask for more than they will use, a cap, as clients do: nobody knows when they will end.
    """
    ground = replace(ground, max_tokens=ground.max_tokens or _MAX_TOKENS)
    changes = {
        "prefix_caching": False,
        "enable_preemption": True,
        "max_batch_size": ground.system.max_batch_size * 4,
        "max_step_tokens": max(ground.system.max_step_tokens, ground.system.max_batch_size * 4),
        "num_blocks": _num_blocks(ground),
    }
    most = capacity(ground.saturate(**changes))
    low, high = 0.5 * most, 1.2 * most
    found = ground.poisson(high, **changes)
    rate = high
    if found.block_use > _BLOCK_USE:
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            run = ground.poisson(middle, **changes)
            if abs(run.block_use - _BLOCK_USE) < abs(found.block_use - _BLOCK_USE):
                found, rate = run, middle
            low, high = (middle, high) if run.block_use < _BLOCK_USE else (low, middle)
    return _verdict(ground, found, rate / most, changes["num_blocks"])


def _num_blocks(ground: Ground) -> int:
    """As many as the system's places want on average, and never fewer than one job may."""
    saturated = ground.saturate(prefix_caching=False)
    wanted = saturated.block_use * ground.system.num_blocks
    one = -(-ground.system.max_context // ground.system.block_size)
    return max(one, round(wanted))


def _verdict(ground: Ground, run: Collected, load: float, num_blocks: int) -> Verdict:
    figures = run.figures()
    notes = [f"jobs ask for {ground.max_tokens} tokens at most"]
    if load > 1:
        notes.append(f"the rate is above the capacity, {load:.2f} times that: the queue grows")
    return Verdict(
        name="computed-twice",
        targets=(
            Target(
                claim=f"share of tokens computed twice at {run.block_use:.0%} mean block use",
                value=figures["computed_twice_share"],
                bound=0.03,
                is_ceiling=True,
                limit="nobody knows how long an output will be, and blocks run out",
            ),
            Target(
                claim=f"mean block use at that rate, {load:.2f} of the capacity",
                value=run.block_use,
                bound=_REACHED,
                limit="blocks are kept for what those who run may still want",
            ),
        ),
        details={
            "block_use_mean": run.block_use,
            "num_blocks": num_blocks,
            "rate_over_capacity": load,
            "preemptions": figures["preemptions"],
            "tokens_computed_twice": figures["tokens_computed_twice"],
            "rows_per_step": figures["rows_per_step"],
        },
        notes=tuple(notes),
    )
