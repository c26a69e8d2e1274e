"""The picture of ``stepserve chaos``: when each fault struck, and every pause of every stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.axes
import matplotlib.figure

from stepserve_bench.chaos.kinds import KINDS, Part
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.stalls import SHOWN_S, Struck, gaps

COLOURS: Mapping[Part, str] = {
    "worker": "#3b7dd8", "scheduler": "#c0392b", "both": "#8e44ad", "link": "#16a085",
    "client": "#e0a800", "redis": "#d35400", "pair": "#7a3e00", "job": "#7f8c1a", "all": "#333333",
}  # fmt: skip


def draw(path: Path, ledger: Ledger, faults: Sequence[Struck]) -> None:
    """Write the picture; the suffix says in which format, SVG or PNG."""
    figure = matplotlib.figure.Figure(figsize=(14, 7), layout="constrained")
    pauses, kinds = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    zero_s = min((fault.at_s for fault in faults), default=0.0)
    _draw_pauses(pauses, ledger, zero_s)
    _draw_faults(kinds, faults, zero_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_pauses(axes: matplotlib.axes.Axes, ledger: Ledger, zero_s: float) -> None:
    found = [(begin_s - zero_s, length_s) for begin_s, length_s in gaps(ledger)]
    lengths_s = [length_s for _, length_s in found]
    begins_s, ends_s = [begin_s for begin_s, _ in found], [sum(pause) for pause in found]
    # Thousands of lines: as dots of the SVG, or it would take megabytes.
    lines = axes.hlines(lengths_s, begins_s, ends_s, colors="#555555", linewidth=0.8, alpha=0.5)
    lines.set_rasterized(True)
    axes.set_yscale("log")
    axes.set_ylabel(f"pauses of streams longer than {SHOWN_S:g} s, in s")
    axes.grid(alpha=0.3)
    axes.set_title(
        f"{len(ledger.entries)} jobs, {ledger.num_tokens} tokens, {len(found)} pauses, "
        f"{len(ledger.problems)} problems",
        loc="left",
        fontsize=10,
    )


def _draw_faults(axes: matplotlib.axes.Axes, faults: Sequence[Struck], zero_s: float) -> None:
    names = sorted({fault.kind for fault in faults})
    rows = [names.index(fault.kind) for fault in faults]
    colours = [COLOURS[KINDS[fault.kind].part] for fault in faults]
    begins_s = [fault.at_s - zero_s for fault in faults]
    ends_s = [(fault.healed_s or fault.at_s) - zero_s for fault in faults]
    axes.hlines(rows, begins_s, ends_s, colors=colours, linewidth=3, alpha=0.6)
    axes.scatter(begins_s, rows, c=colours, marker="|", s=60)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("seconds after the first fault; a bar lasts until all that was struck serves")
