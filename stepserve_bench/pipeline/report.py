"""What the ways to keep a pipeline busy came to, for the terminal, and beside what is aimed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from stepserve_bench.pipeline.ways import FILLED, ONE_BATCH, ONE_STAGE, Measured
from stepserve_bench.report.tables import table_console
from stepserve_bench.report.targets import at_least, at_most, in_words

# (figure, heading, decimals)
ROWS = (
    ("steady_requests_per_s", "requests/s, steady", 2),
    ("requests_per_s", "requests/s, all", 2),
    ("output_tokens_per_s", "output tokens/s", 0),
    ("latency_s_mean", "latency, mean (s)", 2),
    ("ttft_ms_p50", "first token, p50 (ms)", 0),
    ("itl_ms_p50", "between tokens, p50 (ms)", 0),
    ("rows_per_step", "rows in a step", 1),
    ("step_ms_p50", "step, p50 (ms)", 1),
)


def print_report(result: Mapping[str, Any]) -> None:
    """Print the figures, what each stage waited, and what is aimed at."""
    console = table_console()
    found = result["ways"]
    table = Table("", title="the same jobs, one way after another on this machine")
    for name in found:
        table.add_column(name, justify="right")
    for name, heading, decimals in ROWS:
        table.add_row(heading, *(f"{figures[name]:.{decimals}f}" for figures in found.values()))
    idle = (", ".join(f"{s:.0%}" for s in figures["idle_shares"]) for figures in found.values())
    table.add_row("each stage idle, steady", *idle)
    table.add_row("same outputs", *result["same_outputs"].values())
    console.print(table)
    for name, target in result["targets"].items():
        console.print(f"{name}: {in_words(target)}")
        if "limit" in target:
            console.print(f"  {target['limit']}")


def targets(
    found: Mapping[str, Mapping[str, Any]], times: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what is aimed at of a batch for each stage, as far as it was measured."""
    aims: dict[str, dict[str, Any]] = {}
    if ONE_STAGE.name in times:
        limit = "the longest stage, the link, and what the scheduler takes of the stages' cores"
        aims["times one stage's requests/s"] = at_least(times[ONE_STAGE.name], 1.6, limit)
    if ONE_BATCH.name in times:
        limit = "a smaller batch takes more time a row"
        aims["times one batch in flight's requests/s"] = at_least(times[ONE_BATCH.name], 1.5, limit)
    if FILLED.name in found:
        idle = found[FILLED.name]["idle_shares"]
        limit = f"stages are idle {', '.join(f'{share:.0%}' for share in idle)}"
        aims["share of the time that stages wait"] = at_most(sum(idle) / len(idle), 0.1, limit)
    return aims


def same_outputs(found: Sequence[Measured]) -> dict[str, str]:
    """Return for each way how many of its outputs are those of the first one."""
    first = found[0].run.outcomes
    return {
        measured.way.name: f"{_num_same(first, measured.run.outcomes)} of {len(first)}"
        for measured in found
    }


def _num_same(first: Sequence[Any], others: Sequence[Any]) -> int:
    return sum(a.token_ids == b.token_ids for a, b in zip(first, others, strict=True))
