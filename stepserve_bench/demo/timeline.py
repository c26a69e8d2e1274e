"""The picture of a run: a line for each job, a column for each step, who did what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stepserve_bench.measure.recorded import Doing, RecordedStep, SequenceName


@dataclass(frozen=True, slots=True)
class Track:
    """One job's line in the picture: its label, and when it was submitted (s, epoch)."""

    name: SequenceName
    label: str
    submitted_s: float


def cells(track: Track, steps: Sequence[RecordedStep]) -> list[Doing | None]:
    """Return what the job does in each step; None before it came and after it left."""
    row: list[Doing | None] = []
    gone = False
    for step in steps:
        doing = step.doing.get(track.name)
        if doing is None and not gone and step.sent_s >= track.submitted_s:
            doing = Doing.WAITS
        row.append(doing)
        gone = gone or doing is Doing.LEAVES
    return row


def print_timeline(
    console: Console, tracks: Sequence[Track], steps: Sequence[RecordedStep]
) -> None:
    """Draw it in the terminal, in bands as wide as the terminal allows."""
    rows = [cells(track, steps) for track in tracks]
    label_width = max(len(track.label) for track in tracks) + 1
    width = max(20, console.width - label_width - 1)
    for start in range(0, len(steps), width):
        end = min(start + width, len(steps))
        console.print(f"[dim]{'steps':<{label_width}}{start + 1} to {end}[/dim]")
        for track, row in zip(tracks, rows, strict=True):
            text = Text(f"{track.label:<{label_width}}")
            for doing in row[start:end]:
                text.append(doing.glyph if doing else " ", style=doing.style if doing else "")
            console.print(text, no_wrap=True)
    legend = Text()
    for doing in Doing:
        legend.append(f"{doing.glyph} ", style=doing.style)
        legend.append(f"{doing.name.lower()}   ")
    console.print(legend)


def write_svg(path: Path, tracks: Sequence[Track], steps: Sequence[RecordedStep]) -> None:
    """Write it as an SVG file: 5 by 14 pixels a cell, a bar of the batch's rows below."""
    cell, height, left, top = 5, 16, 190, 30
    bar_height, max_rows = 40, max((step.num_rows for step in steps), default=1)
    bottom = top + height * len(tracks) + 12
    total = (left + cell * len(steps) + 20, bottom + bar_height + 40)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>',
        *_legend(left),
    ]
    for i, track in enumerate(tracks):
        y = top + height * i
        parts.append(f'<text x="4" y="{y + 11}">{escape(track.label)}</text>')
        parts += [
            f'<rect x="{left + cell * j}" y="{y}" width="{cell - 1}" height="{height - 2}" '
            f'fill="{doing.colour}"><title>step {steps[j].number}: {doing.name.lower()}</title>'
            "</rect>"
            for j, doing in enumerate(cells(track, steps))
            if doing is not None
        ]
    parts.append(f'<text x="4" y="{bottom + bar_height}">rows in the step</text>')
    for j, step in enumerate(steps):
        bar = bar_height * step.num_rows / max_rows
        parts.append(
            f'<rect x="{left + cell * j}" y="{bottom + bar_height - bar:.1f}" '
            f'width="{cell - 1}" height="{bar:.1f}" fill="#888888"/>'
        )
    parts.append(
        f'<text x="{left}" y="{total[1] - 10}">one column a step, 1 to {len(steps)}</text>'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _legend(left: int) -> list[str]:
    return [
        f'<rect x="{left + 90 * i}" y="8" width="10" height="10" fill="{doing.colour}"/>'
        f'<text x="{left + 90 * i + 14}" y="17">{doing.name.lower()}</text>'
        for i, doing in enumerate(Doing)
    ]
