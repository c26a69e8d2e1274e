"""Steps in a pipeline told and drawn: at each tick every stage is at another step.

Step i, counted from 0, is in stage s at tick i + s. Jobs enter with a step at the first stage, and
leave with one at the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from stepserve_bench.measure.recorded import Doing, RecordedStep, SequenceName

STYLES = ("bright_blue", "yellow", "green", "bright_red")
COLOURS = ("#3b7dd8", "#e0a800", "#3fa65a", "#c0392b")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps that a pipeline computed, in their order, and the numbers of their jobs."""

    steps: Sequence[RecordedStep]
    numbers: Mapping[SequenceName, int]
    num_stages: int

    @property
    def num_ticks(self) -> int:
        return len(self.steps) + self.num_stages - 1

    def at(self, tick: int, stage: int) -> RecordedStep | None:
        """The step that the stage is at; None before the first and after the last."""
        index = tick - stage
        return self.steps[index] if 0 <= index < len(self.steps) else None

    def jobs(self, step: RecordedStep | None) -> list[int]:
        """The numbers of the jobs in a step."""
        return sorted(self.numbers[name] for name in step.row_tokens) if step else []

    def tell(self) -> Iterator[str]:
        """Yield a line for each tick, and one for each stage in it."""
        seen: set[SequenceName] = set()
        for tick in range(self.num_ticks):
            yield f"Tick {tick}"
            for stage in range(self.num_stages):
                step = self.at(tick, stage)
                notes = []
                if stage == 0 and step:
                    notes += [self._named(set(step.row_tokens) - seen, "enter", "enters")]
                    seen |= set(step.row_tokens)
                if stage == self.num_stages - 1 and step:
                    done = {name for name, doing in step.doing.items() if doing is Doing.LEAVES}
                    notes += [self._named(done, "are done and leave", "is done and leaves")]
                yield f"  stage {stage}: {self._batch(step)}{''.join(notes)}"

    def _batch(self, step: RecordedStep | None) -> str:
        jobs = self.jobs(step)
        return f"step {self._number(step)}, {_list(jobs)}" if step and jobs else "nothing"

    def _number(self, step: RecordedStep) -> int:
        return self.steps.index(step)

    def _named(self, names: set[SequenceName], several: str, one: str) -> str:
        jobs = sorted(self.numbers[name] for name in names)
        if not jobs:
            return ""
        return f" ({_list(jobs)} {one if len(jobs) == 1 else several})"


def _list(jobs: Sequence[int]) -> str:
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(map(str, jobs))}"


def print_stages(console: Console, pipeline: Pipeline) -> None:
    """Draw it in the terminal: a line for each stage, a column for each tick, the jobs' numbers."""
    width = max((len(_cell(pipeline.jobs(step))) for step in pipeline.steps), default=0) + 1
    label = len(f"stage {pipeline.num_stages}") + 1
    per_line = max(1, (console.width - label) // width)
    for first in range(0, pipeline.num_ticks, per_line):
        ticks = range(first, min(first + per_line, pipeline.num_ticks))
        console.print(Text(f"{'tick':<{label}}" + "".join(f"{tick:<{width}}" for tick in ticks)))
        for stage in range(pipeline.num_stages):
            text = Text(f"stage {stage}".ljust(label))
            for tick in ticks:
                cell = _cell(pipeline.jobs(pipeline.at(tick, stage)))
                text.append(f"{cell:<{width}}", style=STYLES[_batch_of(pipeline, tick, stage)])
            console.print(text, no_wrap=True)


def write_stages(path: Path, pipeline: Pipeline) -> None:
    """Write it as an SVG file: a box for each step in each stage, coloured by micro-batch."""
    width, height, left, top = 44, 30, 70, 26
    total = left + width * pipeline.num_ticks + 10, top + height * pipeline.num_stages + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>',
        '<text x="4" y="16">tick</text>',
    ]
    for tick in range(pipeline.num_ticks):
        x = left + width * tick
        parts.append(f'<text x="{x + width / 2}" y="16" text-anchor="middle">{tick}</text>')
    for stage in range(pipeline.num_stages):
        y = top + height * stage
        parts.append(f'<text x="4" y="{y + 18}">stage {stage}</text>')
        for tick in range(pipeline.num_ticks):
            parts += _box(pipeline, tick, stage, (left + width * tick, y, width, height))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _box(pipeline: Pipeline, tick: int, stage: int, place: tuple[int, int, int, int]) -> list[str]:
    jobs = pipeline.jobs(pipeline.at(tick, stage))
    if not jobs:
        return []
    x, y, width, height = place
    colour = COLOURS[_batch_of(pipeline, tick, stage)]
    title = escape(f"tick {tick}, stage {stage}: step {tick - stage}, {_list(jobs)}")
    return [
        f'<rect x="{x}" y="{y}" width="{width - 2}" height="{height - 4}" fill="{colour}">'
        f"<title>{title}</title></rect>",
        f'<text x="{x + width / 2 - 1}" y="{y + 17}" text-anchor="middle" fill="white">'
        f"{_cell(jobs)}</text>",
    ]


def _cell(jobs: Sequence[int]) -> str:
    return " ".join(map(str, jobs)) if jobs else "-"


def _batch_of(pipeline: Pipeline, tick: int, stage: int) -> int:
    """Which micro-batch a step's is: what it names, the one so many later may name again."""
    return (tick - stage) % pipeline.num_stages % len(COLOURS)
