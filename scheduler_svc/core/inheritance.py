"""A fresh core's state, made of what another lane left at the worker."""

from __future__ import annotations

from kvstore.pool import BlockPool
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Adopted
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import ResidentSequence


def inherit(
    event: Adopted, config: CoreConfig, pool: BlockPool, roster: Roster
) -> tuple[list[Sequence], list[Sequence]]:
    """Put every sequence where it is, and hold its blocks.

    Returns those that are new to the lane, and those that are no more than an end: they have
    no room for another token, and nothing is to be reported of them. Raises ValueError where
    the block tables can't be.
    """
    kept = {(held.job_id, held.index): held for held in event.kept}
    departed = {(left.job_id, left.index): left for left in event.departed}
    last_step = config.first_step - 1
    roster.skip_ids(event.last_id)
    pool.restore([held.block_ids for held in (*event.kept, *event.released)])
    new: list[Sequence] = []
    full: list[Sequence] = []
    for job in event.jobs:
        for sequence in sequences_of(job, config.max_context):
            if held := kept.get(sequence.key):
                roster.resume(sequence, held, last_step)
            elif left := departed.get(sequence.key):
                roster.take_back(sequence, left, last_step)
            elif sequence.is_full:
                full.append(sequence)
                continue
            else:
                roster.add(sequence)
            new.append(sequence)
    for held in event.released:
        roster.dismiss(_stranger(held), held, last_step)
    _count_shared(roster)
    return new, full


def _stranger(held: ResidentSequence) -> Sequence:
    """A sequence of which nothing is wanted but its blocks."""
    spec = JobSpec(held.job_id, "", (), Sampling(1))
    return Sequence(
        spec=spec, index=held.index, rank=0.0, sampling=spec.sampling, token_ids=[], max_length=0
    )


def _count_shared(roster: Roster) -> None:
    """Of those that share a block the first has let the others in behind it."""
    seen = set[int]()
    for sequence in roster.running.values():
        sequence.num_shared = sum(block_id in seen for block_id in sequence.block_ids)
        seen.update(sequence.block_ids)
