"""Who asks: a tenant, and the key that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler_svc.access.api_key import ApiKey
from scheduler_svc.queue import Quota
from stepserve.protocol.errors import Forbidden
from stepserve.protocol.inference import Request

# Of what is done some time later, where its request asks for no priority.
LATER_PRIORITY = -5


@dataclass(frozen=True, slots=True)
class Caller:
    """``tenant`` None: one who may name any, and sees the jobs of all; "" is a tenant, too.

    Without keys everybody is such a one, and what they name is believed. ``usual_priority`` is
    what a request has that asks for none: as much of it as its key may have.
    """

    tenant: str | None = None
    key: ApiKey | None = None
    usual_priority: int = 0

    def owns(self, tenant: str) -> bool:
        """Whether that tenant's jobs are there for this caller."""
        return self.tenant is None or self.tenant == tenant

    def check_tenant(self, tenant: str) -> None:
        """Raise Forbidden where ``tenant`` is another than the caller's; "" names none."""
        if tenant and not self.owns(tenant):
            raise Forbidden("tenant", f"the API key is not of tenant {tenant[:128]!r}")

    @property
    def is_operator(self) -> bool:
        """Whether it may see the work of all tenants: without keys, everybody may."""
        return self.key is None or self.key.is_operator

    def check_operator(self) -> None:
        """Raise Forbidden where what is asked shows the work of all tenants, and is not for it."""
        if not self.is_operator:
            raise Forbidden(
                "authorization", "this shows every tenant's work: an operator's key is needed"
            )

    def speaking_for(self, tenant: str) -> Caller:
        """Return a caller of one tenant: the own, or for who may name any, the named one."""
        self.check_tenant(tenant)
        return self if self.tenant is not None else replace(self, tenant=tenant)

    def signed(self, request: Request) -> Request:
        """Return a request with the tenant that it has from this caller.

        Raises Forbidden where it names one that is not for the caller.
        """
        self.check_tenant(request.tenant)
        return request if self.tenant is None else replace(request, tenant=self.tenant)

    def priority(self, asked: int) -> int:
        """Return what a request has that asks for this. Raises Forbidden where it is too much."""
        highest = asked if self.key is None else self.key.max_priority
        if asked <= highest:
            return asked
        if asked in (0, self.usual_priority):
            return highest  # It asks for none in particular.
        raise Forbidden("priority", f"at most {highest} is possible with this API key")

    @property
    def quota(self) -> Quota | None:
        """What its jobs count against; None without a key."""
        key = self.key
        if key is None:
            return None
        return Quota(
            key.key_id,
            key.weight or 0.0,
            key.requests_per_minute,
            key.tokens_per_minute,
            key.max_jobs,
        )
