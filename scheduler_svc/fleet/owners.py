"""Who should drive which worker: all schedulers live by the same rule and the same facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from scheduler_svc.queue import Fleet


def assign_workers(fleet: Fleet) -> dict[str, str]:
    """Return who should hold each worker; it is the same wherever it is asked.

    Free workers go to those that have the fewest. Then, as long as one has two more than
    another that reaches one of them, that one is handed over: nothing moves that does not
    make their numbers more even, so what is even stays as it is, and each move is made once.
    A worker that nobody can drive is left out, and one whose holder is not known to live
    (its lease is good still) stays there.
    """
    owners = dict(fleet.holders)
    counts = Counter(dict.fromkeys(fleet.reaches, 0))
    counts.update(s for s in owners.values() if s in fleet.reaches)
    free = frozenset[str]().union(*fleet.reaches.values()) - owners.keys()
    for worker in sorted(free):
        taker = min(_reaching(fleet, worker), key=lambda s: (counts[s], s))
        owners[worker] = taker
        counts[taker] += 1
    while (move := _next_move(fleet, owners, counts)) is not None:
        worker, taker = move
        counts[owners[worker]] -= 1
        counts[taker] += 1
        owners[worker] = taker
    return owners


def _reaching(fleet: Fleet, worker: str) -> list[str]:
    return [scheduler for scheduler, reach in fleet.reaches.items() if worker in reach]


def _next_move(
    fleet: Fleet, owners: Mapping[str, str], counts: Mapping[str, int]
) -> tuple[str, str] | None:
    """The worker to move and whom to, from who has most to who has fewest."""
    by_count = sorted(fleet.reaches, key=lambda s: (counts[s], s))
    for giver in reversed(by_count):
        held = {worker for worker, owner in owners.items() if owner == giver}
        for taker in by_count:
            if counts[taker] + 2 > counts[giver]:
                break
            if movable := held & fleet.reaches[taker]:
                # One that is free, where there is: it costs nothing.
                return max(movable, key=lambda w: (w not in fleet.holders, w)), taker
    return None
