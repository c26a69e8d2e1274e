"""The picture of a run: a line for each job, a column for each step, who did what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from scheduler_svc.record_files import steps_paths

SequenceName = tuple[str, int]


class Doing(Enum):
    """What a job does in a step: its glyph, its terminal style, its colour."""

    WAITS = ("·", "bright_black", "#dddddd")
    PREFILLS = ("▒", "bright_blue", "#3b7dd8")
    DECODES = ("█", "green", "#3fa65a")
    LEAVES = ("■", "bright_red", "#c0392b")
    PREEMPTED = ("×", "yellow", "#e0a800")

    @property
    def glyph(self) -> str:
        return self.value[0]

    @property
    def style(self) -> str:
        return self.value[1]

    @property
    def colour(self) -> str:
        return self.value[2]


@dataclass(slots=True)
class Step:
    """One step as recorded: when it was sent, how long it took (0: unreported), who was in it.

    ``row_tokens`` holds how many tokens of each row were computed, and ``lengths`` how many
    tokens its context had then. ``num_positions`` went through the token-wise layers, padding
    included; ``num_context`` keys were read (both 0 where the worker does not say).
    """

    number: int
    sent_s: float
    duration_us: int = 0
    num_free_blocks: int = -1
    num_positions: int = 0
    num_context: int = 0
    doing: dict[SequenceName, Doing] = field(default_factory=dict)
    row_tokens: dict[SequenceName, int] = field(default_factory=dict)
    lengths: dict[SequenceName, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return len(self.row_tokens)

    @property
    def num_tokens(self) -> int:
        return sum(self.row_tokens.values())


@dataclass(frozen=True, slots=True)
class Line:
    """One job's line: its label, and when it was submitted (seconds since the epoch)."""

    name: SequenceName
    label: str
    submitted_s: float


def read_steps(directory: Path) -> list[Step]:
    """Return the steps of all records in the directory, in the order they were sent."""
    steps: list[Step] = []
    for path in steps_paths(directory):
        with path.open(encoding="utf-8") as lines:
            steps += _Reader().read(json.loads(line) for line in lines)
    return sorted(steps, key=lambda step: step.sent_s)


class _Reader:
    """Follows each sequence's progress through one record."""

    def __init__(self) -> None:
        self._steps: dict[int, Step] = {}
        self._names: dict[int, SequenceName] = {}
        # By sequence: tokens it came with, and tokens computed since.
        self._num_tokens: dict[int, int] = {}
        self._num_computed: dict[int, int] = {}

    def read(self, lines: Iterable[dict[str, Any]]) -> list[Step]:
        for line in lines:
            if line["kind"] == "sent":
                self._sent(line)
            elif line["step"] in self._steps:
                self._reported(line)
        return list(self._steps.values())

    def _sent(self, line: dict[str, Any]) -> None:
        step = Step(line["step"], line["time_s"])
        self._steps[step.number] = step
        for admitted in line["admitted"]:
            sequence_id = admitted["sequence_id"]
            self._names[sequence_id] = (admitted["job_id"], admitted["index"])
            self._num_tokens[sequence_id] = admitted["num_tokens"]
            self._num_computed[sequence_id] = admitted.get("num_computed", 0)
        for sequence_id in line["released"]:
            step.doing[self._names[sequence_id]] = Doing.PREEMPTED
        for sequence_id, num_tokens in line["rows"]:
            name = self._names[sequence_id]
            prefills = self._num_computed[sequence_id] < self._num_tokens[sequence_id]
            self._num_computed[sequence_id] += num_tokens
            step.doing[name] = Doing.PREFILLS if prefills else Doing.DECODES
            step.row_tokens[name] = num_tokens
            step.lengths[name] = self._num_computed[sequence_id]

    def _reported(self, line: dict[str, Any]) -> None:
        step = self._steps[line["step"]]
        step.duration_us = line["duration_us"]
        step.num_free_blocks = line["num_free_blocks"]
        step.num_positions = line.get("num_positions", 0)
        step.num_context = line.get("num_context", 0)
        for sequence_id in line["finished"]:
            name = self._names[sequence_id]
            step.doing[name] = Doing.LEAVES
            # A step that was planned before the end was known names it once more; the
            # worker skips that row.
            for later in self._steps.values():
                if later.number > step.number:
                    for rows in (later.doing, later.row_tokens, later.lengths):
                        rows.pop(name, None)


def cells(line: Line, steps: Sequence[Step]) -> list[Doing | None]:
    """Return what the job does in each step; None before it came and after it left."""
    row: list[Doing | None] = []
    gone = False
    for step in steps:
        doing = step.doing.get(line.name)
        if doing is None and not gone and step.sent_s >= line.submitted_s:
            doing = Doing.WAITS
        row.append(doing)
        gone = gone or doing is Doing.LEAVES
    return row


def print_timeline(console: Console, lines: Sequence[Line], steps: Sequence[Step]) -> None:
    """Draw it in the terminal, in bands as wide as the terminal allows."""
    rows = [cells(line, steps) for line in lines]
    label_width = max(len(line.label) for line in lines) + 1
    width = max(20, console.width - label_width - 1)
    for start in range(0, len(steps), width):
        end = min(start + width, len(steps))
        console.print(f"[dim]{'steps':<{label_width}}{start + 1} to {end}[/dim]")
        for line, row in zip(lines, rows, strict=True):
            text = Text(f"{line.label:<{label_width}}")
            for doing in row[start:end]:
                text.append(doing.glyph if doing else " ", style=doing.style if doing else "")
            console.print(text, no_wrap=True)
    legend = Text()
    for doing in Doing:
        legend.append(f"{doing.glyph} ", style=doing.style)
        legend.append(f"{doing.name.lower()}   ")
    console.print(legend)


def write_svg(path: Path, lines: Sequence[Line], steps: Sequence[Step]) -> None:
    """Write it as an SVG file: 5 by 14 pixels a cell, a bar of the batch's rows below."""
    cell, height, left, top = 5, 16, 190, 30
    bar_height, max_rows = 40, max((step.num_rows for step in steps), default=1)
    bottom = top + height * len(lines) + 12
    total = (left + cell * len(steps) + 20, bottom + bar_height + 40)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>',
        *_legend(left),
    ]
    for i, line in enumerate(lines):
        y = top + height * i
        parts.append(f'<text x="4" y="{y + 11}">{escape(line.label)}</text>')
        parts += [
            f'<rect x="{left + cell * j}" y="{y}" width="{cell - 1}" height="{height - 2}" '
            f'fill="{doing.colour}"><title>step {steps[j].number}: {doing.name.lower()}</title>'
            "</rect>"
            for j, doing in enumerate(cells(line, steps))
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
