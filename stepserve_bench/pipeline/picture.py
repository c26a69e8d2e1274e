"""The picture of ``bench pipeline``: stages as lines, time across, a box for each batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.axes
import matplotlib.figure

from stepserve_bench.pipeline.spans import Span
from stepserve_bench.pipeline.ways import Measured

COLOURS = ("#3b7dd8", "#e0a800", "#3fa65a", "#c0392b", "#8e44ad", "#16a085", "#777777", "#d35400")
# Steps of each stage that are shown, from the middle of the run.
NUM_SHOWN = 12
HEIGHT = 0.8


def draw(path: Path, found: Sequence[Measured]) -> None:
    """Write the picture; the suffix says in which format, SVG or PNG."""
    height = sum(len(measured.stages) for measured in found)
    figure = matplotlib.figure.Figure(
        figsize=(12, 1.2 * len(found) + 0.5 * height), layout="constrained"
    )
    rows = [len(measured.stages) for measured in found]
    axes = figure.subplots(len(found), 1, squeeze=False, height_ratios=rows)[:, 0]
    span_s = max(map(_shown_s, found))
    for each, measured in zip(axes, found, strict=True):
        _draw(each, measured, span_s)
    axes[-1].set_xlabel("milliseconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _begin_s(measured: Measured) -> float:
    """When the first stage began a step in the middle of the steady time."""
    begin_s, end_s = measured.steady_s
    middle_s = (begin_s + end_s) / 2
    return min((s.begin_s for s in measured.stages[0] if s.begin_s >= middle_s), default=middle_s)


def _shown_s(measured: Measured) -> float:
    begin_s = _begin_s(measured)
    later = [span for span in measured.stages[0] if span.begin_s >= begin_s][:NUM_SHOWN]
    return max((span.end_s for span in later), default=begin_s) - begin_s


def _draw(axes: matplotlib.axes.Axes, measured: Measured, span_s: float) -> None:
    begin_s, num_stages = _begin_s(measured), len(measured.stages)
    for stage, spans in enumerate(measured.stages):
        for span in spans:
            if begin_s <= span.end_s and span.begin_s <= begin_s + span_s:
                _box(axes, stage, span, begin_s, num_stages)
    idle = ", ".join(f"{share:.0%}" for share in measured.idle_shares)
    rate = measured.steady_requests_per_s
    axes.set_title(
        f"{measured.way.about}; {rate:.2f} requests/s, stages idle {idle}",
        fontsize=9,
        loc="left",
    )
    axes.set_yticks(range(num_stages), [f"stage {stage}" for stage in range(num_stages)])
    axes.set(xlim=(0, span_s * 1e3), ylim=(num_stages - 0.5, -0.5))


def _box(
    axes: matplotlib.axes.Axes, stage: int, span: Span, zero_s: float, num_stages: int
) -> None:
    left_ms, width_ms = (span.begin_s - zero_s) * 1e3, (span.end_s - span.begin_s) * 1e3
    axes.broken_barh(
        [(left_ms, width_ms)],
        (stage - HEIGHT / 2, HEIGHT),
        # What a step names, the one so many later may name again: a micro-batch.
        facecolors=COLOURS[span.step % num_stages % len(COLOURS)],
        edgecolors="white",
    )
    axes.text(
        left_ms + width_ms / 2, stage, str(span.num_rows),
        ha="center", va="center", fontsize=7, color="white", clip_on=True,
    )  # fmt: skip
