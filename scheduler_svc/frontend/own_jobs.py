"""The jobs of one caller: what an edge may do for who stands at its door."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from scheduler_svc.access.caller import Caller
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.listing import Listing
from scheduler_svc.queue import Account, Submitted
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import JobInfo, JobPage, ModelInfo, Request, StreamEvent


class OwnJobs:
    """The front ends' methods, to which another tenant's job is one that does not exist.

    ``account`` tells how the caller's quota stands after a submit; None without a key. Made for
    one request.
    """

    def __init__(self, front_ends: FrontEnds, caller: Caller) -> None:
        self._front_ends = front_ends
        self.caller = caller
        quota = caller.quota
        self.account = Account(quota, caller.priority) if quota is not None else None

    @property
    def tenant(self) -> str:
        """Whose files and batches are there; "" is a tenant, too."""
        return self.caller.tenant or ""

    @property
    def key_id(self) -> str:
        """The name of the caller's key, "" without one."""
        return self.caller.key.key_id if self.caller.key is not None else ""

    async def check_all(self, field: str, requests: Sequence[Request]) -> None:
        """Raise what is wrong with any of the requests that ``field`` asks for; see ``check``.

        InvalidRequest where they can't go on at once, ever. Those that were accepted before are
        there, whatever would be accepted by now.
        """
        front_ends, account = self._front_ends, self.account
        signed = [self.caller.signed(request) for request in requests]
        if len(signed) > self._most_at_once:
            known = [await front_ends.is_stored(request, account) for request in signed]
            if (num_new := known.count(False)) > self._most_at_once:
                raise InvalidRequest(
                    field,
                    f"asks for {num_new} jobs, {self._most_at_once} at once are possible with "
                    "this API key",
                )
        for request in signed:
            await front_ends.check(request, account)

    @property
    def _most_at_once(self) -> float:
        quota = self.caller.quota
        bounds = (quota.max_jobs, quota.requests_per_minute) if quota is not None else ()
        return min(filter(None, bounds), default=math.inf)

    async def submit(self, request: Request, edge: str = "") -> Submitted:
        """See ``FrontEnd.submit``. Raises Forbidden, QuotaExceeded."""
        return await self._front_ends.submit(self.caller.signed(request), edge, self.account)

    def generate(
        self, request: Request, edge: str = "", grace_s: float | None = None
    ) -> AsyncGenerator[StreamEvent, None]:
        """See ``FrontEnd.generate``. Raises Forbidden; the stream QuotaExceeded."""
        signed = self.caller.signed(request)
        return self._front_ends.generate(signed, edge, grace_s, self.account)

    def events(
        self,
        job_id: str,
        offset: int = 0,
        offsets: Sequence[int] = (),
        grace_s: float | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """See ``FrontEnd.events``."""
        return self._front_ends.events(job_id, offset, offsets, grace_s, self.caller.tenant)

    async def find(self, unique: str) -> str:
        """See ``FrontEnds.find``."""
        return await self._front_ends.find(unique, self.caller.tenant)

    async def get(self, job_id: str) -> JobInfo:
        """See ``FrontEnd.get``."""
        return await self._front_ends.get(job_id, self.caller.tenant)

    async def with_edge(self, job_id: str) -> tuple[JobInfo, str]:
        """Return a job, and what was kept with it when it was submitted."""
        return await self.get(job_id), await self._front_ends.edge_of(job_id)

    async def cancel(self, job_id: str) -> JobInfo:
        """See ``FrontEnd.cancel``."""
        return await self._front_ends.cancel(job_id, self.caller.tenant)

    async def delete(self, job_id: str) -> None:
        """See ``FrontEnd.delete``."""
        await self._front_ends.delete(job_id, self.caller.tenant)

    async def models(self) -> tuple[ModelInfo, ...]:
        """See ``FrontEnds.models``; how much there is to do is told to who may see it all."""
        found = await self._front_ends.models()
        if self.caller.is_operator:
            return found
        return tuple(replace(model, num_workers=0, num_queued_jobs=0) for model in found)

    async def page(self, listing: Listing, model: str = "") -> JobPage:
        """See ``FrontEnds.page``. Raises Forbidden for another tenant's."""
        self.caller.check_tenant(listing.tenant)
        if self.caller.tenant is not None:
            listing = replace(listing, tenant=self.caller.tenant)
        page = await self._front_ends.page(listing, model)
        return replace(page, jobs=tuple(j for j in page.jobs if self.caller.owns(j.tenant)))
