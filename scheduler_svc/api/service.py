"""The methods of ``Inference``. Errors are raised; the interceptor makes statuses of them."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import Any

from scheduler_svc.frontend import stream
from scheduler_svc.frontend.absence import Absence
from scheduler_svc.frontend.follow import FollowHub
from scheduler_svc.frontend.gate import Gate
from scheduler_svc.frontend.live_card import LiveCard
from scheduler_svc.frontend.redis_watch import RedisWatch
from scheduler_svc.frontend.validate import check_deadline, check_model, resolve
from scheduler_svc.queue import JobQueue, JobSnapshot, Submitted
from scheduler_svc.text.model_card import ModelCard
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.errors import InvalidRequest, NotFound, Unavailable
from stepserve.protocol.inference import JobInfo, ModelInfo, OutputInfo, StreamEvent, Usage
from stepserve.protocol.job import JobSpec

DEFAULT_LISTED_JOBS = 100
MAX_LISTED_JOBS = 1000
MAX_JOB_ID_CHARS = 256
# Fewer than the queue has connections: the rest is for reading.
MAX_SUBMITS_AT_ONCE = 8
MAX_WAITING_SUBMITS = 8192
MAX_SUBMIT_WAIT_S = 10.0


class InferenceService(wire.InferenceServicer):
    """Jobs in, streams out. All state is in Redis: any replica answers for any job."""

    def __init__(
        self,
        queue: JobQueue,
        card: ModelCard,
        hub: FollowHub,
        absence: Absence,
        watch: RedisWatch,
    ) -> None:
        self._queue = queue
        self._card = card
        self._live_card = LiveCard(queue, card)
        self._gate = Gate(MAX_SUBMITS_AT_ONCE, MAX_WAITING_SUBMITS, MAX_SUBMIT_WAIT_S)
        self._hub = hub
        self._absence = absence
        self._watch = watch

    async def Submit(self, request: wire.SubmitRequest, _context: Any) -> wire.SubmitResponse:
        submitted = await self._submitted(request, is_streamed=False)
        return wire.SubmitResponse(job_id=submitted.job_id, existed=submitted.existed)

    async def Generate(self, request: wire.SubmitRequest, context: Any) -> None:
        job = await self._snapshot((await self._submitted(request, is_streamed=True)).job_id)
        # It may have been stored by a Submit, which has no stream.
        async with self._absence.stream(job.spec.job_id, job.spec.cancel_on_disconnect):
            await context.write(wire.encode_event(StreamEvent(job.spec.job_id)))
            await self._send(context, job, 0, ())

    async def Attach(self, request: wire.AttachRequest, context: Any) -> None:
        job = await self._snapshot(request.job_id)
        async with self._absence.stream(request.job_id, job.spec.cancel_on_disconnect):
            await self._send(context, job, request.offset, request.offsets)

    async def GetJob(self, request: wire.GetJobRequest, _context: Any) -> wire.Job:
        return wire.encode_job(_job_info(await self._snapshot(request.job_id)))

    async def CancelJob(self, request: wire.CancelJobRequest, _context: Any) -> wire.Job:
        await self._snapshot(request.job_id)
        await self._queue.cancel(request.job_id)
        return wire.encode_job(_job_info(await self._snapshot(request.job_id)))

    async def ListJobs(self, request: wire.ListJobsRequest, _context: Any) -> wire.ListJobsResponse:
        check_model(request.model, self._card)
        if request.limit > MAX_LISTED_JOBS:
            raise InvalidRequest("limit", f"must be at most {MAX_LISTED_JOBS}")
        jobs = await self._queue.jobs(
            state=wire.decode_state(request.state),
            tenant=request.tenant,
            limit=request.limit or DEFAULT_LISTED_JOBS,
        )
        return wire.ListJobsResponse(jobs=[wire.encode_job(_job_info(job)) for job in jobs])

    async def ListModels(
        self, _request: wire.ListModelsRequest, _context: Any
    ) -> wire.ListModelsResponse:
        model = ModelInfo(
            name=self._card.name,
            max_context=(await self._live_card.get()).max_context,
            vocab_size=self._card.vocab_size,
            num_workers=len(await self._queue.workers()),
            num_queued_jobs=await self._queue.num_queued(),
        )
        return wire.encode_models([model])

    async def _submitted(self, request: wire.SubmitRequest, *, is_streamed: bool) -> Submitted:
        """Store the request's job, or find it where an idempotency key says that it is there.

        A retry of what was accepted has its job, whatever would be accepted by now.
        """
        self._watch.check()
        # What tells the request from another with the same key.
        digest = wire.request_digest(request, self._card.name)
        try:
            spec = await resolve(request, await self._live_card.get())
            await self._check_deadline(spec)
        except InvalidRequest:
            key = request.idempotency_key
            if job_id := await self._queue.stored_for(request.tenant, key, digest):
                return Submitted(job_id, existed=True)
            raise
        # Only a Generate has a stream whose end could mean anything.
        watched = is_streamed and spec.cancel_on_disconnect
        return await self._submit(replace(spec, cancel_on_disconnect=watched), digest)

    async def _check_deadline(self, spec: JobSpec) -> None:
        """Refuse what can't be in time, if pace and lengths are known; no job that exists."""
        step_s = self._live_card.step_s
        if not (spec.deadline_s and step_s):
            return
        if await self._queue.is_known(spec.tenant, spec.idempotency_key):
            return
        num_tokens = await self._queue.estimate(spec.tenant, spec.sampling.max_tokens)
        if num_tokens is not None:
            check_deadline(spec, num_tokens, step_s)

    async def _submit(self, spec: JobSpec, digest: str) -> Submitted:
        async with self._gate.place():
            self._watch.check()
            try:
                return await self._queue.submit(spec, digest)
            except Unavailable as error:
                self._watch.failed(error)
                raise

    async def _send(self, context: Any, job: JobSnapshot, offset: int, offsets: Any) -> None:
        starts = stream.check_offsets(job, offset, offsets)
        tokenizer = self._card.tokenizer
        prompt = await self._queue.prompt(job.spec.job_id)
        events = stream.events(self._hub, job, starts, tokenizer, prompt)
        del prompt  # may be long, and a stream, which is open for long, needs its end only
        async with aclosing(events):
            async for event in events:
                await context.write(wire.encode_event(event))

    async def _snapshot(self, job_id: str) -> JobSnapshot:
        known = 0 < len(job_id) <= MAX_JOB_ID_CHARS and "\0" not in job_id
        job = await self._queue.job(job_id) if known else None
        if job is None:
            raise NotFound(f"job {job_id[:MAX_JOB_ID_CHARS]!r} is not known here")
        return job


def _job_info(job: JobSnapshot) -> JobInfo:
    outputs = tuple(
        OutputInfo(index, output.num_tokens, output.finish)
        for index, output in enumerate(job.outputs)
    )
    return JobInfo(
        job_id=job.spec.job_id,
        model=job.spec.model,
        state=job.state,
        arrival_s=job.spec.arrival_s,
        ended_s=job.ended_s,
        tenant=job.spec.tenant,
        priority=job.spec.priority,
        outputs=outputs,
        usage=Usage(job.num_prompt_tokens, sum(output.num_tokens for output in outputs)),
        note=job.note,
    )
