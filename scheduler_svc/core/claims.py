"""What a lane asks of the queue: how many jobs, and how urgent they must be."""

from __future__ import annotations

import math

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import Claim
from scheduler_svc.core.roster import Roster

NO_CLAIM = Claim(0)
# One job is claimed ahead for so many places, while there is a backlog.
AHEAD_DIVISOR = 8


class Claims:
    """One wish stands at a time; the newest replaces it, and an answer ends it."""

    def __init__(self, config: CoreConfig, roster: Roster) -> None:
        self._config = config
        self._roster = roster
        self._standing = NO_CLAIM
        self._num_coming = 0  # An answer may still be to an earlier, larger wish.
        self._is_backlogged = False  # The last claim was answered in full.

    def answered(self, num_jobs: int) -> None:
        """So many jobs came. Raises ProtocolError where they are more than were claimed."""
        if num_jobs > self._num_coming:
            raise ProtocolError(f"{num_jobs} jobs came, {self._num_coming} were claimed")
        self._is_backlogged = num_jobs >= self._standing.max_jobs
        self._num_coming, self._standing = 0, NO_CLAIM

    def renewed(self) -> Claim | None:
        """Return a wish for as many jobs as there is room for; None where it stands already."""
        claim = self._wanted()
        if claim in (self._standing, NO_CLAIM):
            return None
        self._standing = claim
        self._num_coming = max(self._num_coming, claim.max_jobs)
        return claim

    def _wanted(self) -> Claim:
        """As many as there are places, and while more jobs wait in the queue a few ahead.

        Those ahead fill a place in the very step after it is left. Where nobody waits now
        nobody is claimed ahead: another lane may have a place for who comes next. A static
        batch is claimed while the one before it runs. And who is much more urgent than one
        that runs may come though all places are taken.
        """
        num_places, roster = self._config.num_places, self._roster
        if self._config.batching == "static":
            # Who was preempted and is on its way back will wait as well.
            num_wanted = min(num_places - len(roster.waiting), 2 * num_places - len(roster.live))
            return Claim(max(0, num_wanted))
        num_free = num_places - len(roster.live)
        num_ahead = -(-num_places // AHEAD_DIVISOR) if self._is_backlogged else 0
        if num_free + num_ahead > 0:
            return Claim(num_free + num_ahead, stands=num_free > 0)
        margin = self._config.preemption_margin
        if margin == math.inf or not roster.running or len(roster.live) >= 2 * num_places:
            return NO_CLAIM
        return Claim(1, max(s.rank for s in roster.running.values()) - margin)
