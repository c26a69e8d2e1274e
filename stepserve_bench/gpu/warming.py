"""Kernels compiled before they are timed: steps of one layer, in processes side by side.

What they leave in Triton's cache is all that is wanted. A model's kernels do not depend on how
many layers it has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial

from stepserve.protocol.errors import one_line
from stepserve_bench.gpu.child import forked_map, num_cores
from stepserve_bench.gpu.driven import Driven, Model, Rows
from stepserve_bench.gpu.geometry import Geometry
from stepserve_bench.gpu.setup import Row, Setup
from worker_svc.core.limits import Limits

NUM_STEPS = 2
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """Rows of a model that will be timed within these limits, and go on by ``more_tokens``."""

    geometry: Geometry
    limits: Limits
    rows: Rows
    more_tokens: int


def compile_ahead(setup: Setup, works: Sequence[Work]) -> Iterator[Row]:
    """Yield how long it took. The caller must not have touched the GPU.

    Whatever fails here fails again where it is timed, and is told there.
    """
    start_s, problems = time.monotonic(), []
    timeout_s = min(TIMEOUT_S, setup.left_s / 2)
    try:
        for problem in forked_map(partial(_compute, setup), works, num_cores(), timeout_s):
            problems += [problem] if problem else []
    except (TimeoutError, BrokenProcessPool) as error:
        problems.append(one_line(error))
    seconds = time.monotonic() - start_s
    yield {"what": "compiled ahead", "seconds": seconds, "failed": len(problems), "all": problems}


def _compute(setup: Setup, work: Work) -> str:
    """Take in the rows and decode, greedily and by a draw; what went wrong, else nothing."""
    try:
        geometry = replace(work.geometry, num_hidden_layers=1, name=f"{work.geometry.name}-layer")
        runner = Model(geometry, work.limits, setup).runner()
        for temperature in (0.0, 1.0):
            runner.reset()
            rows = replace(work.rows, temperature=temperature)
            batch = Driven(runner, rows, work.limits, work.more_tokens)
            batch.settle(batch.first())
            for _ in range(NUM_STEPS):
                batch.settle(batch.next())
    except Exception as error:
        return one_line(error)
    return ""
