"""One lane as the live page shows it: who is in which step, who came, began and ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import (
    Cancelled,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Send,
    WorkerLost,
)
from scheduler_svc.core.scheduler import Core
from scheduler_svc.core.sequence import Sequence as Member
from stepserve.protocol.step import StepCommand, StepReport

# What a sequence does in a step; the page has a colour for each.
PREFILLS, DECODES, LEAVES, PREEMPTED = "p", "d", "l", "x"
# Of a frame, that is of a tenth of a second or so: what is beyond is counted, not shown.
MAX_STEPS, MAX_ROWS, MAX_LIVES, MAX_MEMBERS = 12, 256, 256, 512
# Who is there is told again, for those who have begun to look since.
TELL_MEMBERS_S = 1.0


@dataclass(slots=True)
class _Step:
    """A step that was sent: who does what in it, with how many tokens; and who left before it."""

    number: int
    rows: dict[int, list[Any]]
    left: dict[int, str] = field(default_factory=dict)
    names: dict[int, tuple[str, int]] = field(default_factory=dict)


class Picture:
    """Observes the turns of one lane while ``is_watched`` says so; else a turn costs a call.

    It begins with whoever is there when somebody begins to look. Never a prompt, never a token.
    """

    def __init__(self, worker_id: str, config: CoreConfig, is_watched: Callable[[], bool]) -> None:
        self._worker_id = worker_id
        self._config = config
        self._is_watched = is_watched
        self._core: Core | None = None
        self._forget()

    def _forget(self) -> None:
        self._is_on = False
        self._steps: list[dict[str, Any]] = []
        self._num_skipped = 0
        self._shown: dict[int, tuple[str, int]] = {}
        self._flight: dict[int, _Step] = {}
        # By sequence: its name, and tokens that it had and that are not computed yet.
        self._names: dict[int, tuple[str, int]] = {}
        self._uncomputed: dict[int, int] = {}
        self._begun: set[int] = set()
        self._lives: list[list[Any]] = []
        self._told_members_s = 0.0

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Take note of a turn."""
        self._core = core
        if not self._is_watched():
            if self._is_on:
                self._forget()
            return
        if not self._is_on:
            self._begin(core)
        for event in events:
            self._take(event)
        for effect in effects:
            if isinstance(effect, Send):
                self._sent(effect.command, core)
            elif isinstance(effect, Commit):
                self._ended(effect)

    def frame(self) -> dict[str, Any] | None:
        """Return what happened since the last frame and how the lane stands; None: not watched."""
        core, now_s = self._core, time.monotonic()
        tells_members = now_s - self._told_members_s >= TELL_MEMBERS_S
        is_new = tells_members or self._steps or self._lives
        if core is None or not (is_new and self._is_watched()):
            return None
        counts = core.counts
        told: dict[str, Any] = {
            "worker": self._worker_id,
            "steps": self._steps,
            "skipped": self._num_skipped,
            "names": self._shown,
            "lives": self._lives,
            "running": core.num_running,
            "waiting": core.num_waiting,
            "places": self._config.num_places,
            "blocks": self._config.num_blocks,
            "used": self._config.num_blocks - core.num_free_blocks,
            "block_size": self._config.block_size,
            "stages": self._config.num_stages,
            "cached": counts.num_cached_tokens,
            "computed": counts.num_computed_tokens,
            "preempted": counts.num_preemptions,
        }
        if tells_members:
            self._told_members_s = now_s
            told["members"] = [_told(each) for each in _some(core.live.values())]
        self._steps, self._num_skipped, self._lives, self._shown = [], 0, [], {}
        return told

    def _begin(self, core: Core) -> None:
        self._is_on = True
        for member in core.live.values():
            if member.sequence_id:
                self._meet(member)

    def _meet(self, member: Member) -> None:
        self._names[member.sequence_id] = member.key
        self._uncomputed[member.sequence_id] = len(member.token_ids) - member.num_computed
        if member.num_outputs:
            self._begun.add(member.sequence_id)

    def _take(self, event: Event) -> None:
        match event:
            case Reported(report):
                self._reported(report)
            case Cancelled(job_ids):
                self._live("ended", *((job_id, -1, "cancelled") for job_id in job_ids))
            case Committed(_, ended):
                self._live("ended", *((*key, "cancelled") for key in ended))
            case WorkerLost():
                self._flight.clear()

    def _sent(self, command: StepCommand, core: Core) -> None:
        for admission in command.admissions:
            key = admission.job_id, admission.index
            self._names[admission.sequence_id] = key
            num_left = len(admission.token_ids) - admission.num_computed
            self._uncomputed[admission.sequence_id] = num_left
            if len(admission.token_ids) > admission.num_prompt_tokens:
                self._begun.add(admission.sequence_id)
            self._live("admitted", (*key, admission.num_computed))
        rows: dict[int, list[Any]] = {}
        pairs = zip(command.row_sequence_ids, command.row_num_tokens, strict=True)
        for sequence_id, num_tokens in pairs:
            left = self._uncomputed.get(sequence_id, 0)
            self._uncomputed[sequence_id] = left - num_tokens
            rows[sequence_id] = [PREFILLS if left > 0 and num_tokens else DECODES, num_tokens]
        step = _Step(command.step, rows)
        for sequence_id in command.release_ids:
            # One that ended is in no group of the core's any more, one that waits again is.
            if (key_left := self._names.get(sequence_id)) and key_left in core.live:
                step.left[sequence_id] = PREEMPTED
                step.names[sequence_id] = key_left
                self._live("preempted", key_left)
            self._drop(sequence_id)
        self._flight[step.number] = step

    def _reported(self, report: StepReport) -> None:
        for number in [n for n in self._flight if n < report.step]:
            del self._flight[number]  # It came again, or never.
        step = self._flight.pop(report.step, None)
        for sequence_id in set(report.token_sequence_ids) - self._begun:
            self._begun.add(sequence_id)
            if key := self._names.get(sequence_id):
                self._live("first", key)
        if step is None:
            return
        for sequence_id, _ in report.finished:
            if sequence_id in step.rows:
                step.rows[sequence_id][0] = LEAVES
            # What was planned before the end was known names it once more, for nothing.
            for later in self._flight.values():
                later.rows.pop(sequence_id, None)
        self._show(step, report.duration_us)
        for sequence_id, _ in report.finished:
            self._drop(sequence_id)

    def _show(self, step: _Step, duration_us: int) -> None:
        if not (step.rows or step.left):
            return
        rows = [[each, *doing] for each, doing in list(step.rows.items())[:MAX_ROWS]]
        rows += [[sequence_id, doing, 0] for sequence_id, doing in step.left.items()]
        for sequence_id, *_ in rows:
            if key := self._names.get(sequence_id) or step.names.get(sequence_id):
                self._shown[sequence_id] = key
        told = {
            "n": step.number,
            "us": duration_us,
            "rows": rows,
            "num_rows": len(step.rows),
            "num_tokens": sum(num_tokens for _, num_tokens in step.rows.values()),
        }
        if len(self._steps) >= MAX_STEPS:
            # The newest are seen; a picture of all of them nobody could follow.
            self._steps.pop(0)
            self._num_skipped += 1
        self._steps.append(told)

    def _ended(self, commit: Commit) -> None:
        for row in commit.rows:
            if row.finish is not None:
                num_tokens = row.offset + len(row.token_ids)
                self._live("ended", (row.job_id, row.index, row.finish.reason, num_tokens))

    def _live(self, what: str, *keys: tuple[Any, ...]) -> None:
        room = MAX_LIVES - len(self._lives)
        now_ms = int(time.time() * 1000)
        self._lives += [[what, now_ms, *key] for key in keys[: max(0, room)]]

    def _drop(self, sequence_id: int) -> None:
        self._names.pop(sequence_id, None)
        self._uncomputed.pop(sequence_id, None)
        self._begun.discard(sequence_id)


def _some(members: Iterable[Member]) -> list[Member]:
    return sorted(members, key=lambda member: member.order)[:MAX_MEMBERS]


def _told(member: Member) -> list[Any]:
    """Whose it is, how long its prompt and output are, and how it stands."""
    spec = member.spec
    return [
        *member.key,
        spec.tenant,
        spec.priority,
        member.num_prompt_tokens,
        member.num_outputs,
        member.sampling.max_tokens,
        member.state.name.lower(),
        member.num_preemptions,
        spec.arrival_s,
    ]
