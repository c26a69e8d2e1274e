"""Which tenants metrics name: clients choose the names, so their number has a bound."""

from __future__ import annotations

from collections.abc import Iterable

OTHERS = "(others)"
# Longer ones are no names.
MAX_CHARS = 64


class Tenants:
    """The first so many that are met, ``known`` ones before all, for good."""

    def __init__(self, max_named: int, known: Iterable[str] = ()) -> None:
        self._max_named = max_named
        self._named: set[str] = set()
        for tenant in known:
            self.label(tenant)

    def label(self, tenant: str) -> str:
        """Return the tenant's name, or ``OTHERS`` where it has none in metrics."""
        if tenant in self._named:
            return tenant
        if len(self._named) >= self._max_named or len(tenant) > MAX_CHARS or tenant == OTHERS:
            return OTHERS
        self._named.add(tenant)
        return tenant
