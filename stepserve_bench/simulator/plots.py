"""Pictures of a simulation: latency against load, rows and blocks over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from stepserve_bench.simulator.collected import Collected
from stepserve_bench.simulator.curves import Curve
from stepserve_bench.simulator.system import System

mpl.use("Agg")

from matplotlib import pyplot as plt


def plot_curves(directory: Path, curves: Sequence[Curve]) -> Path:
    """Draw mean (solid) and p99 (dashed) latency of each system; return the file."""
    figure, axes = plt.subplots(figsize=(8, 5))
    for number, curve in enumerate(curves):
        colour = f"C{number}"
        for name, style in (("latency_s_mean", "-"), ("latency_s_p99", "--")):
            values = [figures[name] for figures in curve.figures]
            label = f"{curve.name}, {name.removeprefix('latency_s_')}"
            axes.plot(curve.rates, values, style, marker="o", color=colour, label=label)
    axes.set(xlabel="load (jobs/s)", ylabel="latency (s)", yscale="log")
    axes.legend()
    return _save(figure, directory, "latency.svg")


def plot_series(directory: Path, system: System, run: Collected) -> Path:
    """Draw the first worker's rows and blocks over time; return the file."""
    figure, (rows, blocks) = plt.subplots(2, 1, sharex=True, figsize=(9, 5))
    times_s, num_rows, num_blocks = zip(*run.series.points, strict=True)
    rows.step(times_s, num_rows, where="post")
    rows.axhline(system.max_batch_size, linestyle=":", color="grey")
    rows.set(ylabel="running sequences", title=f"{system.name}: the first worker")
    blocks.step(times_s, [100 * held / system.num_blocks for held in num_blocks], where="post")
    blocks.set(xlabel="time (s)", ylabel="blocks held (%)", ylim=(0, 101))
    return _save(figure, directory, "occupancy.svg")


def _save(figure: Any, directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    # Without a date the same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "stepserve"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path
