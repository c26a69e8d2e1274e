"""How many tokens were computed, and how many had to be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scheduler_svc.record_files import steps_paths
from tests.e2e.oracle import OracleJob


def num_positions(directory: Path) -> int:
    """Tokens that went through the layers, by the workers' reports, each step once.

    Whoever takes a worker over is told again of reports that the worker kept.
    """
    steps: dict[tuple[str, int], int] = {}
    for path in steps_paths(directory):
        worker, _, _ = path.name.rpartition("-")
        # A process that was killed may have left half a line.
        for line in path.read_text().split("\n")[:-1]:
            told = json.loads(line)
            if told["kind"] == "reported":
                steps[worker, told["step"]] = told["num_positions"]
    return sum(steps.values())


def num_needed(jobs: Iterable[OracleJob]) -> int:
    """Of jobs that share no beginning; an output's last token is chosen and not computed."""
    return sum(len(job.prompt_token_ids) + job.max_tokens - 1 for job in jobs)
