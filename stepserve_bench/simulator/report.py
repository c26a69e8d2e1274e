"""What a simulation came to, for the eye: tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from stepserve_bench.simulator.curves import Curve
from stepserve_bench.simulator.scenarios import Verdict

if TYPE_CHECKING:
    from stepserve_bench.simulator.fit import Fit

_COUNTS = {"jobs", "num_steps", "preemptions", "tokens_computed_twice", "prefix_hit_tokens"}


def print_figures(console: Console, title: str, figures: Mapping[str, float], costs: str) -> None:
    """Print one run's figures, and below them in words which costs they are of."""
    table = Table("figure", title=title, caption=costs)
    table.add_column("", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.0f}" if name in _COUNTS else f"{value:,.3f}")
    console.print(table)


def print_curves(console: Console, curves: Sequence[Curve], costs: str) -> None:
    table = Table(title="latency against load, mean / p99 in seconds", caption=costs)
    table.add_column("jobs/s", justify="right")
    for curve in curves:
        table.add_column(curve.name, justify="right")
    for index, rate in enumerate(curves[0].rates):
        cells = (
            f"{curve.figures[index]['latency_s_mean']:.2f} / "
            f"{curve.figures[index]['latency_s_p99']:.2f}"
            for curve in curves
        )
        table.add_row(f"{rate:.2f}", *cells)
    console.print(table)


def print_verdicts(console: Console, verdicts: Sequence[Verdict], costs: str) -> None:
    """One row for each target, with what lies behind it and what limits it below."""
    table = Table(title="experiments", caption=costs)
    table.add_column("experiment")
    table.add_column("what is compared", overflow="fold")
    for name in ("found", "target", ""):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        for target in verdict.targets:
            sign = "at most" if target.is_ceiling else "at least"
            table.add_row(
                verdict.name,
                target.claim,
                f"{target.value:.3f}",
                f"{sign} {target.bound:.3g}",
                "met" if target.is_met else "MISSED",
            )
    console.print(table)
    for verdict in verdicts:
        parts = (f"{name} {value:.4g}" for name, value in verdict.details.items())
        console.print(f"{verdict.name}: {', '.join(parts)}", highlight=False)
        missed = (target for target in verdict.targets if not target.is_met)
        limits = (f"missed, {target.claim}: {target.limit}" for target in missed)
        for sentence in (*verdict.notes, *limits):
            console.print(f"  {sentence}", highlight=False)


def print_fits(console: Console, fits: Mapping[str, Fit]) -> None:
    for attention, fit in fits.items():
        costs = fit.costs
        console.print(
            f"{attention}: {fit.num_steps} steps of {fit.period_us_mean / 1e3:.2f} ms on average, "
            f"said again with {fit.error_mean:.1%} mean error\n  {costs}",
            highlight=False,
        )
