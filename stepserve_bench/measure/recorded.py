"""Steps as a scheduler recorded them: who was in each, and did what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

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
class RecordedStep:
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


def read_steps(directory: Path) -> list[RecordedStep]:
    """Return the steps of all records in the directory, in the order they were sent."""
    steps: list[RecordedStep] = []
    for path in steps_paths(directory):
        with path.open(encoding="utf-8") as lines:
            steps += _Reader().read(json.loads(line) for line in lines)
    return sorted(steps, key=lambda step: step.sent_s)


class _Reader:
    """Follows each sequence's progress through one record."""

    def __init__(self) -> None:
        self._steps: dict[int, RecordedStep] = {}
        self._names: dict[int, SequenceName] = {}
        # By sequence: tokens it came with, and tokens computed since.
        self._num_tokens: dict[int, int] = {}
        self._num_computed: dict[int, int] = {}

    def read(self, lines: Iterable[dict[str, Any]]) -> list[RecordedStep]:
        for line in lines:
            if line["kind"] == "adopted":
                self._meet(line["sequences"])
            elif line["kind"] == "sent":
                self._sent(line)
            elif line["step"] in self._steps:
                self._reported(line)
        return list(self._steps.values())

    def _meet(self, sequences: Iterable[dict[str, Any]]) -> None:
        for new in sequences:
            sequence_id = new["sequence_id"]
            self._names[sequence_id] = (new["job_id"], new["index"])
            self._num_tokens[sequence_id] = new["num_tokens"]
            self._num_computed[sequence_id] = new.get("num_computed", 0)

    def _sent(self, line: dict[str, Any]) -> None:
        step = RecordedStep(line["step"], line["time_s"])
        self._steps[step.number] = step
        self._meet(line["admitted"])
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
