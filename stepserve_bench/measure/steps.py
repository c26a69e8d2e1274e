"""What the recorded steps of a run came to: how full they were, how padded, how long."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from stepserve_bench.measure.figures import percentile
from stepserve_bench.measure.recorded import RecordedStep


def step_figures(steps: Sequence[RecordedStep], num_places: int) -> dict[str, float]:
    """Return occupancy, padding and time of the steps in which anything was computed.

    ``occupancy`` is rows per step over places. ``padded_share`` is the share of the positions
    in the token-wise layers that no job asked for; ``context_padded_share`` the same for the
    keys that attention read. Both are 0 where the worker does not report positions. Step times
    are the worker's own, in milliseconds.
    """
    worked = [step for step in steps if step.num_rows]
    if not worked:
        return {}
    times_ms = [step.duration_us / 1e3 for step in worked if step.duration_us]
    rows = statistics.mean(step.num_rows for step in worked)
    return {
        "num_steps": len(worked),
        "rows_per_step": rows,
        "occupancy": rows / num_places,
        "padded_share": _waste(
            [(step.num_tokens, step.num_positions) for step in worked if step.num_positions]
        ),
        "context_padded_share": _waste(
            [(sum(step.lengths.values()), step.num_context) for step in worked if step.num_context]
        ),
        "step_ms_mean": statistics.mean(times_ms) if times_ms else float("nan"),
        "step_ms_p50": percentile(times_ms, 0.5),
        "step_ms_p99": percentile(times_ms, 0.99),
    }


def mean_period_ms(steps: Sequence[RecordedStep]) -> float:
    """Return the mean time from one step to the next, of a run in which jobs always waited.

    It has in it what the worker's own times have not: the scheduler, Redis and gRPC.
    """
    times_s = [step.sent_s for step in steps if step.num_rows]
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1) * 1e3 if times_s[1:] else float("nan")


def _waste(pairs: Sequence[tuple[int, int]]) -> float:
    """Return the share of what was done that was not wanted, from (wanted, done) of each step."""
    done = sum(pair[1] for pair in pairs)
    return 1.0 - sum(pair[0] for pair in pairs) / done if done else 0.0
