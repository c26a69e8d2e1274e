"""Writes down what a lane did, step by step, for pictures and for questions afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from scheduler_svc.core.events import Adopted, Effect, Event, Reported, Send
from scheduler_svc.core.scheduler import Core
from scheduler_svc.record_files import steps_path
from stepserve.protocol.step import StepCommand, StepReport


class StepRecorder:
    """One JSON line for each step sent and each step reported. Never a prompt, never a token.

    Where a worker was taken over, an ``adopted`` line comes first: the sequences that it held.
    ``sent`` lines: step, time (seconds since the epoch), admissions, rows as [sequence id,
    number of tokens], releases. ``reported`` lines: step, duration, positions computed and
    read, sequences that got a token, that finished, the free blocks afterwards, and the counts
    of the core so far.
    """

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = steps_path(directory, name).open("a", encoding="utf-8")

    def __enter__(self) -> StepRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What could not be written is tried once more here; that was said already.
        with suppress(OSError):
            self._file.close()

    def observe(self, events: Sequence[Event], effects: Sequence[Effect], core: Core, /) -> None:
        """Take note of one turn of the lane's loop."""
        for event in events:
            if isinstance(event, Reported):
                self._write(_reported(event.report, core))
            elif isinstance(event, Adopted):
                self._write(_adopted(event))
        for effect in effects:
            if isinstance(effect, Send):
                self._write(_sent(effect.command))
        self._file.flush()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _adopted(event: Adopted) -> dict[str, Any]:
    return {
        "kind": "adopted",
        "time_s": time.time(),
        "sequences": [
            {
                "sequence_id": held.sequence_id,
                "job_id": held.job_id,
                "index": held.index,
                "num_tokens": held.num_tokens,
                "num_computed": held.num_computed,
            }
            for held in (*event.kept, *event.released)
        ],
    }


def _sent(command: StepCommand) -> dict[str, Any]:
    return {
        "kind": "sent",
        "step": command.step,
        "time_s": time.time(),
        "admitted": [
            {
                "sequence_id": a.sequence_id,
                "job_id": a.job_id,
                "index": a.index,
                "num_prompt_tokens": a.num_prompt_tokens,
                "num_tokens": len(a.token_ids),
                "num_computed": a.num_computed,
            }
            for a in command.admissions
        ],
        "rows": list(zip(command.row_sequence_ids, command.row_num_tokens, strict=True)),
        "released": list(command.release_ids),
    }


def _reported(report: StepReport, core: Core) -> dict[str, Any]:
    return {
        "kind": "reported",
        "step": report.step,
        "time_s": time.time(),
        "duration_us": report.duration_us,
        "num_positions": report.num_positions,
        "num_context": report.num_context,
        "sampled": list(report.token_sequence_ids),
        "finished": [sequence_id for sequence_id, _ in report.finished],
        "num_free_blocks": core.num_free_blocks,
        **asdict(core.counts),
    }
