"""The experiment on memory pressure: what preemption costs when blocks are what is short."""

from __future__ import annotations

from bench.simulator.collected import Collected, capacity
from bench.simulator.scenarios.ground import Ground, Target, Verdict

_BLOCK_USE = 0.95
_NUM_HALVINGS = 7


def computed_twice(ground: Ground) -> Verdict:
    """Tokens computed twice at the Poisson rate at which 95 % of the blocks are held.

    There are places for four times as many as the blocks are for, so that blocks decide.
    """
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
    return _verdict(found, rate, most, changes["num_blocks"])


def _num_blocks(ground: Ground) -> int:
    """As many as the system's places want on average, and never fewer than one job may."""
    saturated = ground.saturate(prefix_caching=False)
    wanted = saturated.block_use * ground.system.num_blocks
    one = -(-ground.system.max_context // ground.system.block_size)
    return max(one, round(wanted))


def _verdict(run: Collected, rate: float, most: float, num_blocks: int) -> Verdict:
    figures = run.figures()
    return Verdict(
        name="computed-twice",
        targets=(
            Target(
                claim=f"share of tokens computed twice at {run.block_use:.0%} mean block use",
                value=figures["computed_twice_share"],
                bound=0.03,
                is_ceiling=True,
            ),
        ),
        details={
            "block_use_mean": run.block_use,
            "num_blocks": num_blocks,
            "rate": rate,
            "rate_over_capacity": rate / most,
            "preemptions": figures["preemptions"],
            "tokens_computed_twice": figures["tokens_computed_twice"],
            "rows_per_step": figures["rows_per_step"],
        },
    )
