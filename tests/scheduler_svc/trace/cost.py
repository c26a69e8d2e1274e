"""What recording costs a lane: ``python -m tests.scheduler_svc.trace.cost``; ends with a JSON line.

Steady decode of so many sequences in a model world, written to a file as a lane does: the time
that ``observe`` takes of a turn, beside that of the core itself; and of the turn that claims
them all, by token of their prompts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TextIO
from unittest.mock import patch

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Claimed, Effect, Event, Reported
from scheduler_svc.core.scheduler import Core
from scheduler_svc.trace.recorder import TraceRecorder
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.build import core_config
from tests.scheduler_svc.core.world import World

NUM_RUNNING = (16, 64, 256)
PROMPT_LENGTH = 200
NUM_TURNS = 120
US = 1e6


class TimedCore(Core):
    """Keeps how long each turn took, and its recording, in microseconds, by what it was."""

    def __init__(self, config: CoreConfig, file: TextIO) -> None:
        super().__init__(config)
        self._recorder = TraceRecorder(file, config)
        self.decodes: list[tuple[float, float]] = []
        self.claim_us = 0.0

    def handle(self, events: Sequence[Event]) -> list[Effect]:
        started = perf_counter()
        effects = super().handle(events)
        handled = perf_counter()
        self._recorder.observe(events, effects)
        record_us = (perf_counter() - handled) * US
        if any(isinstance(event, Claimed) for event in events):
            self.claim_us += record_us
        reports = [event.report for event in events if isinstance(event, Reported)]
        if reports and len(reports[0].token_ids) == self.num_running:
            self.decodes.append(((handled - started) * US, record_us))
        return effects


def measure(num_running: int) -> dict[str, float]:
    config = core_config(
        num_blocks=num_running * (PROMPT_LENGTH + NUM_TURNS) // 8,
        block_size=16,
        max_context=PROMPT_LENGTH + NUM_TURNS,
        max_batch_size=num_running,
        max_step_tokens=2048,
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        (Path(scratch) / "trace").open("w", encoding="ascii") as file,
    ):
        core = _live(config, num_running, file)
    handle_us, record_us = zip(*core.decodes, strict=True)
    return {
        "handle_us_p50": round(median(handle_us), 1),
        "record_us_p50": round(median(record_us), 1),
        "record_us_max": round(max(record_us), 1),
        "claim_us_per_prompt_token": round(core.claim_us / num_running / PROMPT_LENGTH, 2),
        "num_turns": len(core.decodes),
    }


def _live(config: CoreConfig, num_running: int, file: TextIO) -> TimedCore:
    with patch("tests.scheduler_svc.core.world.Core", lambda config: TimedCore(config, file)):
        world = World(config)
    for number in range(num_running):
        prompt = [(number * 7 + i) % 31 for i in range(PROMPT_LENGTH)]
        sampling = Sampling(max_tokens=NUM_TURNS, seed=number)
        world.submit(JobSpec(f"job{number}", "model", prompt, sampling), {})
    for _ in range(NUM_TURNS):
        world.turn()
    assert isinstance(world.core, TimedCore)
    return world.core


if __name__ == "__main__":
    print(json.dumps({f"running_{count}": measure(count) for count in NUM_RUNNING}))
