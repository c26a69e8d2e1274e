"""Mistakes in what keeps a job that breaks its lane from being anybody else's trouble."""

from __future__ import annotations

from tests.scheduler_svc.core.mutations import OUTCOME, Mutant

PROBATION = "scheduler_svc/core/probation.py"

BROKEN_JOB_MUTANTS = (
    Mutant(
        "a text that can't be made is a stop",
        OUTCOME,
        'Finish("error", hit.error) if hit.error else',
        "",
    ),
    Mutant("nobody is on probation", PROBATION, "if job.strikes:", "if False:"),
    Mutant("probation ends at once", PROBATION, "2 * max_steps_in_flight + 1", "1"),
    Mutant("who passes is not told", PROBATION, "self._passed.append(job_id)", "pass"),
    Mutant(
        "the cancelled stay on probation",
        PROBATION,
        "self._left.keys() & frozenset(job_ids)",
        "()",
    ),
    Mutant(
        "who is dropped stays on probation",
        PROBATION,
        "is_dropped or row.finish",
        "row.finish",
    ),
    Mutant(
        "who is dropped has shown that it breaks nothing",
        PROBATION,
        "if job_id not in self._dropped:",
        "if True:",
    ),
)
