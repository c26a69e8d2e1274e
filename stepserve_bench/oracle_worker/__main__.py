"""``python -m stepserve_bench.oracle_worker``: one worker, until SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from uuid import uuid4

from stepserve.metrics.status import Status
from stepserve.modelfiles.facts import read_facts
from stepserve.modelfiles.sources import name_of
from stepserve.process.command_line import parse_settings
from stepserve.process.logs import start_logging
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.step import WorkerInfo
from stepserve_bench.oracle_worker.oracle import BLOCK_SIZE, FIRST_TOKEN, NUM_TOKENS
from stepserve_bench.oracle_worker.runner import OracleRunner
from stepserve_bench.oracle_worker.settings import OracleWorkerSettings
from worker_svc.assembled import Assembly
from worker_svc.core.limits import Limits
from worker_svc.server import serve
from worker_svc.settings import WorkerSettings

PROG = "python -m stepserve_bench.oracle_worker"
# As a worker's: a step failed.
EXIT_BROKEN = 3


def limits_of(settings: OracleWorkerSettings) -> Limits:
    """What it can hold. Raises StepserveError where the vocabulary is too small."""
    facts = read_facts(Path(settings.model))
    if facts.vocab_size < FIRST_TOKEN + NUM_TOKENS:
        raise StepserveError(
            f"{settings.model}: {facts.vocab_size} tokens; the oracle chooses from those from "
            f"{FIRST_TOKEN} to {FIRST_TOKEN + NUM_TOKENS - 1}"
        )
    return Limits(
        vocab_size=facts.vocab_size,
        max_context=settings.max_context or facts.max_context,
        block_size=BLOCK_SIZE,
        num_blocks=settings.num_blocks,
        max_batch_size=settings.max_batch_size,
        max_step_tokens=settings.max_step_tokens,
    )


def info_of(settings: OracleWorkerSettings, limits: Limits) -> WorkerInfo:
    """What it says of itself: all oracle workers are one model."""
    return WorkerInfo(
        incarnation=uuid4().hex,
        model=settings.model_name or name_of(settings.model),
        fingerprint="oracle",
        dtype="float32",
        vocab_size=limits.vocab_size,
        max_context=limits.max_context,
        block_size=limits.block_size,
        num_blocks=limits.num_blocks,
        max_batch_size=limits.max_batch_size,
        max_step_tokens=limits.max_step_tokens,
        max_kept_reports=settings.max_kept_reports,
        launch_ahead=settings.launch_ahead,
    )


def run(settings: OracleWorkerSettings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    try:
        start_logging()
        limits = limits_of(settings)
        runner, info = OracleRunner(limits, settings.step_ms / 1e3), info_of(settings, limits)
        status = Status(settings)
        served = WorkerSettings.model_validate(
            settings.model_dump(include={"model", "host", "port"})
        )
        with status.served(settings.host):
            assembly = Assembly(runner, info, settings.launch_ahead)
            failure = asyncio.run(serve(served, assembly, status))
    except StepserveError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    if settings.usage_out:
        Path(settings.usage_out).write_text(json.dumps(runner.usage.figures()), encoding="utf-8")
    if failure:
        print(f"{PROG}: {failure}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that is stopped never lets go.
    os._exit(EXIT_BROKEN if failure else 0)


if __name__ == "__main__":
    sys.exit(run(parse_settings(OracleWorkerSettings, PROG, sys.argv[1:])))
