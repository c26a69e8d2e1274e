"""The picture of ``stepserve bench batching``: throughput, latency, gaps, full steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.figure

from stepserve_bench.measure.recorded import RecordedStep
from stepserve_bench.measure.service_run import ServiceRun

COLOURS = ("#777777", "#c0392b", "#e0a800", "#3b7dd8", "#3fa65a", "#8e44ad", "#16a085", "#2c3e50")
NUM_BINS = 200


def draw(path: Path, runs: Mapping[str, ServiceRun], num_places: int) -> None:
    """Write the picture; the suffix says in which format, SVG or PNG."""
    figure = matplotlib.figure.Figure(figsize=(12, 8), layout="constrained")
    speeds, latency, gaps, rows = figure.subplots(2, 2).flat
    _bars(speeds, {name: run.figures(num_places)["requests_per_s"] for name, run in runs.items()})
    for colour, (name, run) in zip(_colours(runs), runs.items(), strict=True):
        style = {"color": colour, "label": name, "linewidth": 1.4}
        latency.plot(*_distribution([outcome.latency_s for outcome in run.ended]), **style)
        gaps.plot(*_distribution(_gaps_ms(run)), **style)
        rows.plot(*_rows_over_time(run.steps), **style)
    latency.set(title="latency of a job", xlabel="seconds", ylabel="share of the jobs")
    gaps.set(title="time between tokens", xlabel="milliseconds", ylabel="share of the gaps")
    gaps.set_xscale("log")
    rows.set(title="rows in a step", xlabel="seconds", ylim=(0, num_places * 1.05))
    latency.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _colours(runs: Mapping[str, ServiceRun]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(runs))]


def _bars(axes: matplotlib.axes.Axes, speeds: Mapping[str, float]) -> None:
    names = list(speeds)[::-1]
    bars = axes.barh(names, [speeds[name] for name in names])
    for bar, colour in zip(bars, _colours(speeds)[::-1], strict=True):  # type: ignore[arg-type]
        bar.set_color(colour)
    first = next(iter(speeds.values()))
    axes.bar_label(bars, [f"{speeds[name]:.1f}  ({speeds[name] / first:.1f}x)" for name in names])
    axes.margins(x=0.2)
    axes.set(title="requests a second")


def _distribution(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the cumulative distribution, thinned to what a picture can show."""
    ordered = sorted(value for value in values if value > 0)
    every = max(1, len(ordered) // 1000)
    shown = list(range(0, len(ordered), every))
    return [ordered[i] for i in shown], [(i + 1) / len(ordered) for i in shown]


def _gaps_ms(run: ServiceRun) -> list[float]:
    return [
        (later - earlier) * 1e3
        for outcome in run.ended
        for earlier, later in pairwise(outcome.times.token_times_s)
    ]


def _rows_over_time(steps: Sequence[RecordedStep]) -> tuple[list[float], list[float]]:
    """Return (seconds, mean rows a step) in equal spans of the run."""
    worked = [step for step in steps if step.num_rows]
    start_s, span_s = worked[0].sent_s, max(1e-9, worked[-1].sent_s - worked[0].sent_s)
    bins: list[list[int]] = [[] for _ in range(NUM_BINS)]
    for step in worked:
        bins[min(NUM_BINS - 1, int((step.sent_s - start_s) / span_s * NUM_BINS))].append(
            step.num_rows
        )
    filled = [(i, rows) for i, rows in enumerate(bins) if rows]
    times_s = [(i + 0.5) / NUM_BINS * span_s for i, _ in filled]
    return times_s, [sum(rows) / len(rows) for _, rows in filled]
