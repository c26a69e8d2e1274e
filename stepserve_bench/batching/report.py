"""The comparison of ways to form batches as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from stepserve_bench.report.tables import table_console
from stepserve_bench.report.targets import in_words

# (figure, heading, factor, decimals); a heading's unit is the figure's times the factor.
ROWS = (
    ("requests_per_s", "requests/s", 1, 2),
    ("output_tokens_per_s", "output tokens/s", 1, 0),
    ("latency_s_mean", "latency, mean (s)", 1, 2),
    ("latency_s_p50", "latency, p50 (s)", 1, 2),
    ("latency_s_p90", "latency, p90 (s)", 1, 2),
    ("latency_s_p99", "latency, p99 (s)", 1, 2),
    ("ttft_ms_p50", "first token, p50 (s)", 1e-3, 2),
    ("ttft_ms_p99", "first token, p99 (s)", 1e-3, 2),
    ("itl_ms_p50", "between tokens, p50 (ms)", 1, 1),
    ("itl_ms_p99", "between tokens, p99 (ms)", 1, 1),
    ("rows_per_step", "rows in a step", 1, 2),
    ("occupancy", "places filled (%)", 100, 1),
    ("padded_share", "padding in the layers (%)", 100, 1),
    ("context_padded_share", "padding in attention (%)", 100, 1),
    ("num_steps", "steps", 1, 0),
    ("step_ms_p50", "step, p50 (ms)", 1, 1),
    ("step_period_ms_mean", "step to step, mean (ms)", 1, 2),
    ("peak_memory_mib", "memory (MiB)", 1, 0),
)


def print_report(result: Mapping[str, Any]) -> None:
    """Print the figures, the ratios to static batches, and what is aimed at."""
    console = table_console()
    console.print(_figures(result))
    if result["ratios_to_static"]:
        console.print(_ratios(result["ratios_to_static"]))
    console.print(
        f"the workload's own bound: {result['static_bound']:.2f} (the longest output of a static "
        f"batch over the mean output)",
        highlight=False,
    )
    for name, target in result["targets"].items():
        console.print(f"{name}: {in_words(target)}", highlight=False)
        if "limit" in target:
            console.print(f"  {target['limit']}", highlight=False)


def _figures(result: Mapping[str, Any]) -> Table:
    systems = result["systems"]
    table = _table("the same jobs, one after another on this machine", systems)
    for name, heading, factor, decimals in ROWS:
        values = [figures.get(name) for figures in systems.values()]
        table.add_row(heading, *("" if v is None else f"{v * factor:.{decimals}f}" for v in values))
    table.add_row("same outputs", *result["same_outputs"].values())
    if result["predicted"]:
        _add_predictions(table, result)
    return table


def _add_predictions(table: Table, result: Mapping[str, Any]) -> None:
    predicted = [result["predicted"][name] for name in result["systems"]]
    headings = {name: heading for name, heading, *_ in ROWS}
    for name in predicted[0]["figures"]:
        values = (f"{found['figures'][name]:.2f}" for found in predicted)
        table.add_row(f"simulated {headings[name]}", *values)
        errors = (f"{found['errors'][name] * 100:+.1f}" for found in predicted)
        table.add_row("  error of it (%)", *errors)


def _ratios(ratios: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table("over static+padded", ratios)
    for name, heading, *_ in ROWS:
        values = [figures.get(name) for figures in ratios.values()]
        if any(value is not None for value in values):
            label = heading.partition(" (")[0]
            table.add_row(label, *("" if value is None else f"{value:.2f}" for value in values))
    return table


def _table(title: str, systems: Mapping[str, object]) -> Table:
    table = Table(title=title)
    table.add_column("")
    for name in systems:
        table.add_column(name.replace("+", "\n"), justify="right")
    return table
