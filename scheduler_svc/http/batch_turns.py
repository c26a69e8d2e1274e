"""Whose batches are worked on: every tenant's in turn, and of each no more than of the others."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping

# A tenant without a place waits no longer than this for one, if all have one each.
TURN_S = 60.0


class Turns:
    """Who has a place, of so many ``places``, and who is next. Times are monotonic, in seconds."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._tenants: Mapping[str, str] = {}
        # Who has a place: of which tenant, and since when.
        self._working: dict[str, tuple[str, float]] = {}
        self._served_s: dict[str, float] = {}

    def open(self, tenants: Mapping[str, str]) -> None:
        """These batches have something to be done, each for its tenant."""
        self._tenants = tenants
        there = set(tenants.values())
        self._served_s = {name: at for name, at in self._served_s.items() if name in there}

    @property
    def has_room(self) -> bool:
        """Whether a place is free."""
        return len(self._working) < self._places

    def begun(self, batch_id: str, now_s: float) -> None:
        """It has a place from now on."""
        tenant = self._tenants[batch_id]
        self._working[batch_id] = tenant, now_s
        self._served_s[tenant] = now_s

    def over(self, batch_id: str) -> None:
        """Its place is free."""
        self._working.pop(batch_id, None)

    def waiting(self) -> Iterator[str]:
        """Yield who has no place, whose turn it is first; places may be taken meanwhile.

        That is a batch of a tenant with the fewest places, of whom it is longest that one began.
        """
        left: dict[str, deque[str]] = {}
        for batch_id in sorted(self._tenants.keys() - self._working.keys()):
            left.setdefault(self._tenants[batch_id], deque()).append(batch_id)
        while left:
            count = self._count()
            tenant = min(left, key=lambda name: (count[name], self._served_s.get(name, -math.inf)))
            yield left[tenant].popleft()
            if not left[tenant]:
                del left[tenant]

    def leaves_for(self, batch_id: str, now_s: float) -> str | None:
        """Return who is to give its place to this one, None where nobody is.

        The last one that began, of a tenant who has two places more; where its tenant has none,
        also whoever has had one for long enough.
        """
        count = self._count()
        most = max(count.values(), default=0)
        ours = count[self._tenants[batch_id]]
        if most >= ours + 2:
            rich = [
                (at, each) for each, (tenant, at) in self._working.items() if count[tenant] == most
            ]
            return max(rich)[1]
        longest = min(((at, each) for each, (_, at) in self._working.items()), default=None)
        if ours or longest is None or now_s - longest[0] < TURN_S:
            return None
        return longest[1]

    def _count(self) -> Counter[str]:
        return Counter(tenant for tenant, _ in self._working.values())
