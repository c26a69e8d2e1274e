"""What happens to a core, and what it wants done. Frozen values, no behaviour.

Time, chance and identity arrive here as data; nothing else reaches the core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepserve.protocol.job import ClaimedJob, CommitRow
from stepserve.protocol.step import ResidentSequence, StepCommand, StepReport


@dataclass(frozen=True, slots=True)
class Adopted:
    """First of all, if ever: what the worker's lane before had there, after its last step.

    ``jobs`` are claimed, with the output in their logs, and are ours to run. The reports of the
    last ``num_reports`` steps are still to come; they bring tokens and ends of sequences in
    ``kept`` and ``departed``, and free no block. ``kept`` go on where they stand; ``departed``
    have left the worker, and wait again if they have not ended; ``released`` are to leave it.
    An output that is in none of these waits. Sequence ids up to ``last_id`` were used.
    ``core/adoption.py`` decides.
    """

    jobs: tuple[ClaimedJob, ...]
    kept: tuple[ResidentSequence, ...] = ()
    departed: tuple[ResidentSequence, ...] = ()
    released: tuple[ResidentSequence, ...] = ()
    num_reports: int = 0
    last_id: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """Jobs claimed from the queue for this lane (the answer to one ``Claim``)."""

    jobs: tuple[ClaimedJob, ...]


@dataclass(frozen=True, slots=True)
class StopHit:
    """A stop string was completed by the token at output ``offset``.

    The output ends with that token; its text is cut at ``text_bytes`` UTF-8 bytes. Where the
    text could not be looked at, ``error`` says why, and the output ends with that.
    """

    offset: int
    text_bytes: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """A step's report; ``stops`` are the stop strings found in it, by sequence id."""

    report: StepReport
    stops: Mapping[int, StopHit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """The step's rows are in Redis; rows of ``ended`` outputs (job id, index) were ignored."""

    step: int
    ended: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """These jobs have ended in Redis: cancelled, or past their deadline."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker died, hangs, or is given up: nothing more will be reported."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """It is ``now_s``: seconds since the epoch by Redis's clock, as in ``JobSpec``."""

    now_s: float


Event = Adopted | Claimed | Reported | Committed | Cancelled | WorkerLost | Ticked


@dataclass(frozen=True, slots=True)
class Send:
    """Send the command to the worker."""

    command: StepCommand


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the rows of ``step`` to Redis; answered by ``Committed(step)``.

    Emitted once for every reported step, in order, also with no rows; and once more with the
    number of the last reported step (that before the first one, where none is) for outputs
    that ended without a step: they were claimed with no room for another token.
    """

    step: int
    rows: tuple[CommitRow, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """There is room for so many more jobs of a rank below ``max_rank``.

    A wish that stands until it is answered by one ``Claimed``, however late; a newer one
    replaces it. One that does not ``stand`` is answered at once, by nobody if need be.
    """

    max_jobs: int
    max_rank: float = math.inf
    stands: bool = True


@dataclass(frozen=True, slots=True)
class Requeue:
    """Give these jobs back to the queue, with the output that is in their logs."""

    job_ids: tuple[str, ...]


Effect = Send | Commit | Claim | Requeue
