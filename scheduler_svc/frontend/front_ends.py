"""What clients may do, in values, whichever model they mean.

Each protocol that they may speak is an edge of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any

from scheduler_svc.access.guard import Guard
from scheduler_svc.frontend.batches import Batches
from scheduler_svc.frontend.files import Files
from scheduler_svc.frontend.front_end import FrontEnd, Readiness
from scheduler_svc.frontend.job_info import job_info
from scheduler_svc.frontend.listing import Listing
from scheduler_svc.frontend.validate import job_id_of
from scheduler_svc.queue import Account, Submitted, page_of
from stepserve.modelfiles.sources import slug_of
from stepserve.protocol.errors import InvalidRequest, NotFound, Unavailable
from stepserve.protocol.inference import JobInfo, JobPage, ModelInfo, Request, StreamEvent
from stepserve.protocol.worker_status import WorkerStatus

_MAX_NAMES_TOLD = 20


class FrontEnds:
    """The front ends of all models: a call goes to that of the model, or of the job, it names.

    The names are told apart by their slugs as well. Files and batches, which are of no model, are
    kept in the first one's shard. Methods raise what those of ``FrontEnd`` do, and NotFound for a
    model that is not served. Streams go on while ``run`` runs.

    Edges have a caller's ``OwnJobs``, whom ``guard`` lets in: without one, everybody.
    """

    def __init__(self, front_ends: Sequence[FrontEnd], guard: Guard | None = None) -> None:
        self.guard = guard or Guard()
        self._first = front_ends[0]
        self._by_name = {each.model: each for each in front_ends}
        self._by_slug = {slug_of(each.model): each for each in front_ends}
        self._registry = self._first.queue.registry()
        self.files = Files(self._first.queue)
        self.batches = Batches(self._first.queue)

    @property
    def is_traced(self) -> bool:
        """Whether what a request says of its trace is wanted: see ``spans/incoming.py``."""
        return self._first.is_traced

    @property
    def all(self) -> Collection[FrontEnd]:
        """In the order of the settings."""
        return self._by_name.values()

    def of(self, model: str) -> FrontEnd:
        """Return that of a model, of the only one where none is named.

        Raises NotFound, and InvalidRequest where one has to be named.
        """
        if model in self._by_name:
            return self._by_name[model]
        names = list(map(repr, self._by_name))
        told = ", ".join(names[:_MAX_NAMES_TOLD]) + (" ..." if len(names) > _MAX_NAMES_TOLD else "")
        verb = "is" if len(names) == 1 else "are"
        if model:
            raise NotFound(f"model {model[:100]!r} is not served here; {told} {verb}")
        if len(names) > 1:
            raise InvalidRequest("model", f"is needed: {told} are served here")
        return self._first

    def of_job(self, job_id: str) -> FrontEnd:
        """Return that of a job, which may be unknown to it; any one where no model can be meant."""
        return self._by_slug.get(job_id.rpartition("~")[0], self._first)

    async def find(self, unique: str, tenant: str | None = None) -> str:
        """Return the id of the job with this UUID, whichever model it is of; "" where none has it.

        Raises Unavailable where none has it and one can't be asked.
        """
        away = None
        for job_id in (job_id_of(model, unique) for model in self._by_name):
            try:
                return (await self.get(job_id, tenant)).job_id
            except NotFound:
                continue
            except Unavailable as error:
                away = error  # of this model alone: another one may have it
        if away is not None:
            raise away
        return ""

    @property
    def readiness(self) -> Readiness:
        """Whether jobs of every model are taken, and those of any are computed."""
        each = [front_end.readiness for front_end in self.all]
        return Readiness(all(r.takes_jobs for r in each), any(r.computes for r in each))

    async def run(self, tell: Callable[[Readiness], Awaitable[None]]) -> None:
        """Run all of them until cancelled, see ``FrontEnd.run``."""

        async def hear(_one: Readiness) -> None:
            await tell(self.readiness)

        try:
            async with asyncio.TaskGroup() as group:
                for each in self.all:
                    group.create_task(each.run(hear))
        except ExceptionGroup as error:
            raise error.exceptions[0] from None

    async def close(self) -> None:
        """Streams that are cut off from now on cancel no job."""
        for each in self.all:
            await each.close()

    async def check(self, request: Request, account: Account | None = None) -> None:
        await self.of(request.model).check(request, account)

    async def is_stored(self, request: Request, account: Account | None = None) -> bool:
        return await self.of(request.model).is_stored(request, account)

    async def submit(
        self, request: Request, edge: str = "", account: Account | None = None
    ) -> Submitted:
        return await self.of(request.model).submit(request, edge, account)

    def generate(
        self,
        request: Request,
        edge: str = "",
        grace_s: float | None = None,
        account: Account | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        return self.of(request.model).generate(request, edge, grace_s, account)

    def events(
        self,
        job_id: str,
        offset: int = 0,
        offsets: Sequence[int] = (),
        grace_s: float | None = None,
        tenant: str | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        return self.of_job(job_id).events(job_id, offset, offsets, grace_s, tenant)

    async def edge_of(self, job_id: str) -> str:
        return await self.of_job(job_id).edge_of(job_id)

    async def life(self, job_id: str) -> dict[str, Any]:
        """Return a job as the live page shows it."""
        return await self.of_job(job_id).life(job_id)

    def shown(self, model: str = "") -> FrontEnd:
        """Return that of a model for the live page: of the first where none is named."""
        return self.of(model) if model else self._first

    async def get(self, job_id: str, tenant: str | None = None) -> JobInfo:
        return await self.of_job(job_id).get(job_id, tenant)

    async def cancel(self, job_id: str, tenant: str | None = None) -> JobInfo:
        return await self.of_job(job_id).cancel(job_id, tenant)

    async def delete(self, job_id: str, tenant: str | None = None) -> None:
        await self.of_job(job_id).delete(job_id, tenant)

    async def page(self, listing: Listing, model: str = "") -> JobPage:
        """Return some jobs, newest first, and where the list goes on; of all models for ""."""
        among = [self.of(model)] if model else self.all
        for each in among:
            each.check_answers()
        found, after = await page_of(
            [each.queue for each in among],
            state=listing.state,
            tenant=listing.tenant,
            limit=listing.num_jobs,
            after=listing.after,
        )
        return JobPage(tuple(map(job_info, found)), listing.token(after))

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return what is served, in the order of the settings."""
        return tuple([await each.info() for each in self.all])

    async def workers(self, model: str = "") -> tuple[WorkerStatus, ...]:
        """Return what schedulers know of workers, of any model, or of one; served here or not."""
        self._first.check_answers()
        found = await self._registry.workers()
        return tuple(worker for worker in found if model in ("", worker.model))
