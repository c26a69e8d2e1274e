"""A worker without a model: it keeps every rule of the protocol, and its device only sleeps.

What is measured with it is all the rest: planning, streams, commits, logs, text and events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from stepserve.protocol.step import ResidentSequence, StepCommand, StepReport, WorkerInfo
from stepserve_bench.measure.figures import percentile
from worker_svc.assembly import Assembly
from worker_svc.core.limits import Limits
from worker_svc.core.outcome import Chosen, absorb
from worker_svc.core.residents import Residents, StepPlan
from worker_svc.runner import Runner
from worker_svc.server import serve
from worker_svc.settings import WorkerSettings

BLOCK_SIZE, MAX_CONTEXT, STEP_TOKENS = 16, 1024, 8192
# As a scheduler has them by default.
STEPS_IN_FLIGHT = 2
SETTINGS: dict[str, Any] = {"model": "none", "port": 0}
# Of the vocabulary, without the tokens that end a text.
FIRST_TOKEN, NUM_TOKENS = 300, 200


@dataclass(frozen=True, slots=True)
class Sleeping:
    """A step that is done at ``end_s`` of the monotonic clock."""

    chosen: Chosen
    end_s: float

    def is_done(self) -> bool:
        return time.monotonic() >= self.end_s

    def wait(self) -> Chosen:
        time.sleep(max(0.0, self.end_s - time.monotonic()))
        return self.chosen


class NullRunner:
    """What a ``Runner`` is to an engine. A step takes ``step_s`` seconds of the device."""

    def __init__(self, limits: Limits, step_s: float) -> None:
        self._residents = Residents(limits)
        self._step_s = step_s
        self._free_s = 0.0
        # Of steps that are at least half full: how long they took, and how long the device stood
        # still before them though the step before had been as full.
        self.busy_s = self.idle_s = 0.0
        self._was_full = False
        self._full_rows = -(-limits.max_batch_size // 2)
        self._reported_s: dict[int, float] = {}
        # From a report to the command that it let be planned, in seconds.
        self.turnarounds_s: list[float] = []

    def residents(self) -> tuple[ResidentSequence, ...]:
        return self._residents.describe()

    def departed(self) -> tuple[ResidentSequence, ...]:
        return self._residents.departed()

    @property
    def num_residents(self) -> int:
        return len(self._residents)

    @property
    def last_sequence_id(self) -> int:
        return self._residents.last_id

    def reset(self) -> None:
        self._residents.clear()

    def plan(self, command: StepCommand) -> StepPlan:
        asked_s = self._reported_s.pop(command.step - STEPS_IN_FLIGHT, None)
        if asked_s is not None:
            self.turnarounds_s.append(time.monotonic() - asked_s)
        return self._residents.plan(command)

    def launch(self, plan: StepPlan) -> Sleeping:
        """The device takes the step when it has done those before."""
        begin_s = max(self._free_s, time.monotonic())
        is_full = len(plan.rows) >= self._full_rows
        if is_full:
            self.busy_s += self._step_s
            self.idle_s += (begin_s - self._free_s) * self._was_full
        if plan.rows:
            self._free_s, self._was_full = begin_s + self._step_s, is_full
        sampled = plan.sampled
        tokens = [FIRST_TOKEN + (7 * row.position) % NUM_TOKENS for row in sampled]
        chosen = Chosen(tokens, [True] * len(sampled), {}, int(self._step_s * 1e6))
        return Sleeping(chosen, self._free_s)

    def absorb(self, plan: StepPlan, chosen: Chosen) -> StepReport:
        report = absorb(self._residents, plan, chosen)
        self._reported_s[report.step] = time.monotonic()
        return report


def info_of(model: str, limits: Limits) -> WorkerInfo:
    """What it says of itself."""
    return WorkerInfo(
        incarnation=uuid4().hex,
        model=model,
        fingerprint="null",
        dtype="float32",
        vocab_size=limits.vocab_size,
        max_context=limits.max_context,
        block_size=limits.block_size,
        num_blocks=limits.num_blocks,
        max_batch_size=limits.max_batch_size,
        max_step_tokens=limits.max_step_tokens,
        max_kept_reports=64,
    )


def main() -> None:
    """Serve until SIGTERM, then write how long the device was busy, and how long it waited."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--step-ms", type=float, required=True)
    parser.add_argument("--launch-ahead", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    blocks = given.rows * (MAX_CONTEXT // BLOCK_SIZE)
    limits = Limits(given.vocab_size, MAX_CONTEXT, BLOCK_SIZE, blocks, given.rows, STEP_TOKENS)
    runner = NullRunner(limits, given.step_ms / 1e3)
    engine_side = cast(Runner, cast(Any, runner))
    assembly = Assembly(engine_side, info_of(given.model, limits), given.launch_ahead)
    asyncio.run(serve(WorkerSettings(**SETTINGS), assembly))
    fractions = {"p50": 0.5, "p99": 0.99}
    turnarounds = {
        f"turnaround_ms_{name}": percentile(runner.turnarounds_s, fraction) * 1e3
        for name, fraction in fractions.items()
    }
    figures = {"busy_s": runner.busy_s, "idle_s": runner.idle_s, **turnarounds}
    given.out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
