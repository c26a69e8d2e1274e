"""The methods of ``Inference``: messages to values, to the front end, and back.

Errors are raised; the interceptor makes statuses of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from scheduler_svc.api.door import caller_of
from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.listing import Listing
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.spans.incoming import take_in
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.inference_rpc import InferenceServicer


class InferenceService(InferenceServicer):
    """The gRPC edge of the front ends."""

    def __init__(self, front_end: FrontEnds) -> None:
        self._front_end = front_end

    def _jobs(self, context: Any) -> OwnJobs:
        """Return the jobs of who calls. Raises Unauthenticated."""
        caller = caller_of(self._front_end.guard, context.invocation_metadata())
        return OwnJobs(self._front_end, caller)

    async def Submit(self, message: wire.SubmitRequest, context: Any) -> wire.SubmitResponse:
        self._take_in_trace(context)
        submitted = await self._jobs(context).submit(wire.decode_request(message))
        return wire.SubmitResponse(job_id=submitted.job_id, existed=submitted.existed)

    async def Generate(self, message: wire.SubmitRequest, context: Any) -> None:
        self._take_in_trace(context)
        await _send(context, self._jobs(context).generate(wire.decode_request(message)))

    async def Attach(self, message: wire.AttachRequest, context: Any) -> None:
        self._take_in_trace(context)
        jobs = self._jobs(context)
        await _send(context, jobs.events(message.job_id, message.offset, message.offsets))

    async def GetJob(self, message: wire.GetJobRequest, context: Any) -> wire.Job:
        return wire.encode_job(await self._jobs(context).get(message.job_id))

    async def CancelJob(self, message: wire.CancelJobRequest, context: Any) -> wire.Job:
        return wire.encode_job(await self._jobs(context).cancel(message.job_id))

    async def DeleteJob(
        self, message: wire.DeleteJobRequest, context: Any
    ) -> wire.DeleteJobResponse:
        await self._jobs(context).delete(message.job_id)
        return wire.DeleteJobResponse()

    async def ListJobs(self, message: wire.ListJobsRequest, context: Any) -> wire.ListJobsResponse:
        state = wire.decode_state(message.state)
        wish = Listing(state, message.tenant, message.limit, message.page_token)
        return wire.encode_jobs(await self._jobs(context).page(wish, message.model))

    async def ListModels(
        self, _message: wire.ListModelsRequest, context: Any
    ) -> wire.ListModelsResponse:
        return wire.encode_models(await self._jobs(context).models())

    async def ListWorkers(
        self, message: wire.ListWorkersRequest, context: Any
    ) -> wire.ListWorkersResponse:
        self._jobs(context).caller.check_operator()
        return wire.encode_workers(await self._front_end.workers(message.model))

    def _take_in_trace(self, context: Any) -> None:
        if self._front_end.is_traced:
            take_in(_headers(context))


def _headers(context: Any) -> dict[str, str]:
    """A call's metadata that is text, by its names in lower case."""
    pairs = context.invocation_metadata() or ()
    return {name: value for name, value in pairs if isinstance(value, str)}


async def _send(context: Any, stream: AsyncGenerator[StreamEvent, None]) -> None:
    async with aclosing(stream) as events:
        async for event in events:
            await context.write(wire.encode_event(event))
