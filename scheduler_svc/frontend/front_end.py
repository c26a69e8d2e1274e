"""What clients may do with one model, in values."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scheduler_svc.frontend import stream
from scheduler_svc.frontend.absence import Absence
from scheduler_svc.frontend.follow import FollowHub
from scheduler_svc.frontend.gate import Gate
from scheduler_svc.frontend.grammars import Grammars
from scheduler_svc.frontend.job_info import job_info
from scheduler_svc.frontend.live import LiveView
from scheduler_svc.frontend.live_card import LiveCard
from scheduler_svc.frontend.live_state import job_told
from scheduler_svc.frontend.redis_watch import RedisWatch
from scheduler_svc.frontend.repeats import Repeats
from scheduler_svc.frontend.texts import Texts
from scheduler_svc.frontend.trouble import Trouble
from scheduler_svc.frontend.validate import MAX_JOB_ID_CHARS, check_deadline, not_known, resolve
from scheduler_svc.queue import (
    Account,
    JobQueue,
    JobSnapshot,
    QuotaExceeded,
    Submitted,
    stored_now,
)
from scheduler_svc.settings import ApiSettings
from scheduler_svc.spans.client_spans import taking, traced_stream
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol.errors import Exhausted, Forbidden, InvalidRequest, Unavailable
from stepserve.protocol.inference import JobInfo, ModelInfo, Request, StreamEvent
from stepserve.protocol.job import JobSpec
from stepserve.protocol.request_digest import request_digest
from stepserve.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from scheduler_svc.spans.tracing import Tracing

log = logging.getLogger(__name__)

# Those that come at once go to Redis together, over one connection.
MAX_SUBMITS_AT_ONCE = 64
MAX_WAITING_SUBMITS = 8192
MAX_SUBMIT_WAIT_S = 10.0
# What is said of a request, not of Redis: who had it accepted once has its job all the same.
_REFUSALS = (InvalidRequest, Exhausted, Forbidden)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether jobs are taken, and whether a worker is there, too, that computes them."""

    takes_jobs: bool
    computes: bool


class FrontEnd:
    """Jobs of one model in, streams out. All state is in Redis: any replica answers for any job.

    Whose job it is is asked where a ``tenant`` is given: edges have a caller's ``OwnJobs``.
    Methods raise InvalidRequest, NotFound, Exhausted, BegunAnew and Unavailable. Streams go on
    while ``run`` runs.
    """

    def __init__(
        self,
        queue: JobQueue,
        card: ModelCard,
        settings: ApiSettings,
        tracing: Tracing | None = None,
    ) -> None:
        self._queue = queue
        self._tracing = tracing
        if settings.generation_config == "none":
            card = replace(card, sampling_defaults=SamplingParams())
        self._card = card
        self._live_card = LiveCard(queue, card)
        self._gate = Gate(MAX_SUBMITS_AT_ONCE, MAX_WAITING_SUBMITS, MAX_SUBMIT_WAIT_S)
        self._hub = FollowHub(queue, settings.stream_window_ms / 1e3)
        self._watch = RedisWatch(queue)
        self._grammars = Grammars()
        self._repeats = Repeats(queue, card.name)
        self._trouble = Trouble(log, "the api cannot say how it stands")
        self.absence = Absence(queue, settings.disconnect_grace_s)
        self.texts = Texts(self._live_card)
        self.live = LiveView(queue)
        self.readiness = Readiness(takes_jobs=False, computes=False)

    @property
    def queue(self) -> JobQueue:
        """Where its jobs are."""
        return self._queue

    @property
    def model(self) -> str:
        """The name of the model that is served."""
        return self._card.name

    @property
    def is_traced(self) -> bool:
        """Whether what a request says of its trace is wanted: see ``spans/incoming.py``."""
        return self._tracing is not None

    async def run(self, tell: Callable[[Readiness], Awaitable[None]]) -> None:
        """Follow logs and look after Redis, and tell again and again how it stands.

        Runs until it is cancelled; raises what makes it impossible to follow logs any more.
        Whatever else goes wrong is logged, and no job is said to be taken until it goes well.
        """
        following = asyncio.create_task(self._hub.run(), name="api-follow")
        presence = asyncio.create_task(self.absence.run(), name="api-presence")
        try:
            while not following.done():
                await self._tell_how_it_stands(tell)
                await asyncio.wait((following,), timeout=self._watch.interval_s)
            await following
        finally:
            for task in (following, presence):
                task.cancel()
            await asyncio.gather(following, presence, return_exceptions=True)

    async def _tell_how_it_stands(self, tell: Callable[[Readiness], Awaitable[None]]) -> None:
        try:
            await self._watch.look()
            takes_jobs = self._watch.is_ready
            self.readiness = Readiness(takes_jobs, takes_jobs and await self._computes())
            await tell(self.readiness)
        except Exception as error:
            self._trouble.is_there(error)
            self.readiness = Readiness(takes_jobs=False, computes=False)
            with contextlib.suppress(Exception):  # the same again, if it was the telling
                await tell(self.readiness)
        else:
            self._trouble.is_gone()

    async def close(self) -> None:
        """Streams that are cut off from now on cancel no job."""
        await self.absence.close()

    async def check(self, request: Request, account: Account | None = None) -> None:
        """Raise what ``submit`` would of the request itself, and store nothing."""
        self._watch.check()
        try:
            await self._resolved(request, account)
        except _REFUSALS as error:
            await self._repeats.first(request, account, error)

    async def is_stored(self, request: Request, account: Account | None = None) -> bool:
        """Whether a submit would find its job, by an idempotency key."""
        return bool(await self._repeats.job_of(request, account))

    async def submit(
        self, request: Request, edge: str = "", account: Account | None = None
    ) -> Submitted:
        """Store the request's job, or find it where an idempotency key says that it is there.

        A retry of what was accepted has its job, whatever would be accepted by now. ``edge`` is
        kept with the job for whoever serves it, see ``edge_of``; ``account`` is what it counts
        against, and is told how that stands.
        """
        # Only what is generated has a stream whose end could mean anything.
        return await self._submit(request, edge, account, is_streamed=False)

    async def generate(
        self,
        request: Request,
        edge: str = "",
        grace_s: float | None = None,
        account: Account | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Submit and stream; the first event carries the job's id and nothing else.

        Where its client going away cancels the job, it does so after ``grace_s`` (None: as the
        settings say).
        """
        submitted = await self._submit_for_stream(request, edge, grace_s, account)
        job_id, watch = submitted.job_id, request.cancel_on_disconnect
        if submitted.existed:
            # It may have been stored by a submit, which has no stream.
            watch = (await self._snapshot(job_id)).spec.cancel_on_disconnect
        async with self.absence.stream(job_id, watch, grace_s):
            if (spec := submitted.spec) is not None:
                job, prompt = stored_now(spec), spec.prompt_token_ids
            else:
                job, prompt = await self._snapshot(job_id), await self._queue.prompt(job_id)
            yield StreamEvent(job_id, existed=submitted.existed)
            starts = [0] * len(job.outputs)
            del submitted, spec
            async with aclosing(self._follow(job, starts, prompt)) as events:
                del prompt
                async for event in events:
                    yield event

    async def events(
        self,
        job_id: str,
        offset: int = 0,
        offsets: Sequence[int] = (),
        grace_s: float | None = None,
        tenant: str | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Stream a job's output from an offset on, or from one offset for each output.

        Close it, for a stream that is left before its end says that the client went away; for
        ``grace_s`` see ``generate``. Here as elsewhere a ``tenant`` has no jobs but its own.
        """
        job = await self._snapshot(job_id, tenant)
        starts = stream.check_offsets(job, offset, offsets)
        prompt = await self._queue.prompt(job_id)
        async with (
            self.absence.stream(job_id, job.spec.cancel_on_disconnect, grace_s),
            aclosing(self._follow(job, starts, prompt)) as events,
        ):
            del prompt
            async for event in events:
                yield event

    async def edge_of(self, job_id: str) -> str:
        """Return what was kept with a job when it was submitted; maybe nothing."""
        return await self._queue.edge_of(job_id)

    async def life(self, job_id: str) -> dict[str, Any]:
        """Return a job as the live page shows it, whoever's it is."""
        return job_told(await self._snapshot(job_id))

    async def get(self, job_id: str, tenant: str | None = None) -> JobInfo:
        return job_info(await self._snapshot(job_id, tenant))

    async def cancel(self, job_id: str, tenant: str | None = None) -> JobInfo:
        """End a job; one that has ended stays as it is. Returns how it stands then."""
        if tenant is None:
            # At once: a look at it first would be three calls, and its blocks are waited for.
            self._check_id(job_id)
        else:
            await self._snapshot(job_id, tenant)
        await self._queue.cancel(job_id)
        return await self.get(job_id)

    async def delete(self, job_id: str, tenant: str | None = None) -> None:
        """Forget a job and all that is kept of it; one that goes on is cancelled first."""
        await self._snapshot(job_id, tenant)
        await self._queue.cancel(job_id)
        await self._queue.forget(job_id)

    def check_answers(self) -> None:
        """Raise Unavailable where Redis is known to be away."""
        self._watch.check_answers()

    async def info(self) -> ModelInfo:
        """Return what is served."""
        self.check_answers()
        return ModelInfo(
            name=self._card.name,
            max_context=(await self._live_card.get()).max_context,
            vocab_size=self._card.vocab_size,
            num_workers=len(await self._queue.workers()),
            num_queued_jobs=await self._queue.num_queued(),
        )

    async def _submit_for_stream(
        self, request: Request, edge: str, grace_s: float | None, account: Account | None
    ) -> Submitted:
        """Submit; a client that goes away meanwhile leaves a job, which is to end like others."""
        storing = asyncio.create_task(self._submit(request, edge, account, is_streamed=True))
        try:
            return await asyncio.shield(storing)
        except asyncio.CancelledError:
            if request.cancel_on_disconnect:
                self.absence.abandon(storing, grace_s)
            raise

    async def _submit(
        self, request: Request, edge: str, account: Account | None, *, is_streamed: bool
    ) -> Submitted:
        with taking(self._tracing, request, self.model) as job:
            submitted = await self._take(
                request, edge, account, job.context, is_streamed=is_streamed
            )
            job.taken(submitted.job_id, submitted.spec)
            return submitted

    async def _take(
        self, request: Request, edge: str, account: Account | None, trace: str, *, is_streamed: bool
    ) -> Submitted:
        self._watch.check()
        try:
            spec, needed_s = await self._resolved(request, account)
        except _REFUSALS as error:
            return await self._repeats.first(request, account, error)
        watched = is_streamed and spec.cancel_on_disconnect
        spec = replace(spec, cancel_on_disconnect=watched, trace=trace)
        try:
            return await self._store(spec, needed_s, request, edge, account)
        except InvalidRequest as error:
            return await self._repeats.first(request, account, error)

    async def _resolved(self, request: Request, account: Account | None) -> tuple[JobSpec, float]:
        """Return the job, and how long it takes at least. Raises what is wrong with it."""
        spec = await resolve(request, await self._live_card.get())
        if account is not None:
            # What was asked, and not what its key may have by now, tells requests apart.
            spec = replace(spec, priority=account.priority(spec.priority))
        await self._grammars.check(spec.sampling.structured_outputs, spec.tenant)
        return spec, await self._needed_s(spec)

    async def _needed_s(self, spec: JobSpec) -> float:
        """Return how long it takes at least, 0 where that is not known.

        Raises Infeasible where that is more than it has; of no job that exists.
        """
        step_s = self._live_card.step_s
        if not (spec.deadline_s and step_s):
            return 0.0
        if await self._queue.is_known(spec.tenant, spec.idempotency_key):
            return 0.0
        num_tokens = await self._queue.estimate(spec.tenant, spec.sampling.max_tokens)
        if num_tokens is None:
            return 0.0
        check_deadline(spec, num_tokens, step_s)
        return num_tokens * step_s

    async def _store(
        self, spec: JobSpec, needed_s: float, request: Request, edge: str, account: Account | None
    ) -> Submitted:
        async with self._gate.passage():
            self._watch.check()
            # Not before it is known that there is room: a request may be large.
            digest = request_digest(request, self.model)
            try:
                quota = account.quota if account is not None else None
                stored = await self._queue.submit(spec, digest, edge, needed_s, quota)
            except Unavailable as error:
                self._watch.failed(error)
                raise
            except QuotaExceeded as error:
                if account is not None:
                    account.standing = error.standing
                raise
        if account is not None:
            account.standing = stored.standing
        return stored

    def _follow(
        self, job: JobSnapshot, starts: Sequence[int], prompt: Sequence[int]
    ) -> AsyncGenerator[StreamEvent, None]:
        events = stream.events(self._hub, job, starts, self._card.tokenizer, prompt)
        if self._tracing is None:
            return events
        return traced_stream(self._tracing, job.spec, events)

    async def _snapshot(self, job_id: str, tenant: str | None = None) -> JobSnapshot:
        """Return a job of the tenant's. Another's is nowhere told from one that is not there."""
        self._check_id(job_id)
        job = await self._own(job_id, tenant)
        if job is None and await self._queue.may_come_back():
            job = await self._own(job_id, tenant)
            if job is None:
                raise Unavailable("the job is not known here, and Redis may have lost it just now")
        if job is None:
            raise not_known(job_id)
        return job

    async def _own(self, job_id: str, tenant: str | None) -> JobSnapshot | None:
        job = await self._queue.job(job_id)
        return job if job is not None and tenant in (None, job.spec.tenant) else None

    def _check_id(self, job_id: str) -> None:
        """Raise NotFound for what is no job's id, Unavailable where nobody can tell."""
        self._watch.check_answers()
        if not 0 < len(job_id) <= MAX_JOB_ID_CHARS or "\0" in job_id:
            raise not_known(job_id)

    async def _computes(self) -> bool:
        """Whether any worker is driven; False while Redis does not say."""
        with contextlib.suppress(Unavailable):
            return bool(await self._queue.workers())
        return False
