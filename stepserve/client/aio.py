"""The client for asyncio programs; its methods are those of ``blocking.Client``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Unpack

import grpc

from stepserve.client.calls import RequestFields, address, attachment, listing, submission
from stepserve.client.completion import Collector, Completion
from stepserve.client.following import Following
from stepserve.client.retry import Retry, RetryPolicy
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.channel import channel_options
from stepserve.protocol.inference import JobInfo, JobState, ModelInfo, Request, StreamEvent
from stepserve.protocol.inference_rpc import InferenceStub


class AsyncClient:
    """Talks to a scheduler at ``target``: HOST:PORT, or IP:PORT,IP:PORT for replicas.

    Every call is tried again while no service answers, as ``retry`` says, and is safe
    to: a submit has an idempotency key, and a stream goes on at the token where it broke.
    Methods raise ``stepserve.client.errors``. Belongs to the event loop that it is made in;
    close it, or use it in an ``async with``. A stream that is not read to its end is
    ended by ``aclose()``.
    """

    def __init__(
        self,
        target: str,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._retry = retry or RetryPolicy()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address(target), options=channel_options())
        else:
            self._channel = grpc.aio.secure_channel(
                address(target), credentials, options=channel_options()
            )
        self._stub = InferenceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    async def submit(
        self, request: Request | str | None = None, **fields: Unpack[RequestFields]
    ) -> str:
        """Store a job and return its id. ``request`` may be a prompt, or be all in ``fields``."""
        answer = await self._call(self._stub.Submit, submission(request, fields))
        return str(answer.job_id)

    def generate(
        self, request: Request | str | None = None, **fields: Unpack[RequestFields]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Submit and stream; the first event carries the job's id and nothing else."""
        sent = submission(request, fields)
        return self._follow(Following(sent, sent.sampling.n or 1))

    def attach(
        self, job_id: str, offset: int = 0, offsets: Sequence[int] = ()
    ) -> AsyncGenerator[StreamEvent, None]:
        """Stream a job's output from an offset on, or from one offset for each output."""
        return self._follow(Following(attachment(job_id, offset, offsets)))

    async def complete(
        self, request: Request | str | None = None, **fields: Unpack[RequestFields]
    ) -> Completion:
        """Submit, wait for the end and return all of the output."""
        collector = Collector()
        async with aclosing(self.generate(request, **fields)) as events:
            async for event in events:
                collector.add(event)
        return collector.completion()

    async def get(self, job_id: str) -> JobInfo:
        request = wire.GetJobRequest(job_id=job_id)
        return wire.decode_job(await self._call(self._stub.GetJob, request))

    async def cancel(self, job_id: str) -> JobInfo:
        """End a job; one that has ended stays as it is. Returns how it stands then."""
        request = wire.CancelJobRequest(job_id=job_id)
        return wire.decode_job(await self._call(self._stub.CancelJob, request))

    async def list(
        self, state: JobState | None = None, tenant: str = "", limit: int = 0
    ) -> tuple[JobInfo, ...]:
        """Return at most ``limit`` jobs (0: 100), newest first."""
        answer = await self._call(self._stub.ListJobs, listing(state, tenant, limit))
        return tuple(map(wire.decode_job, answer.jobs))

    async def models(self) -> tuple[ModelInfo, ...]:
        answer = await self._call(self._stub.ListModels, wire.ListModelsRequest())
        return wire.decode_models(answer)

    async def _call(self, method: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        retry = Retry(self._retry)
        while True:
            try:
                return await method(request)
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _follow(self, following: Following) -> AsyncGenerator[StreamEvent, None]:
        retry = Retry(self._retry)
        while not following.is_complete:
            if following.needs_outputs:
                following.num_outputs = len((await self.get(following.job_id)).outputs)
            try:
                async with aclosing(self._stream(following.request())) as events:
                    async for event in events:
                        retry.succeeded()
                        if (news := following.take(event)) is not None:
                            yield news
                following.closed()
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
                await asyncio.sleep(pause_s)

    async def _stream(
        self, request: wire.SubmitRequest | wire.AttachRequest
    ) -> AsyncGenerator[StreamEvent, None]:
        is_attach = isinstance(request, wire.AttachRequest)
        call = (self._stub.Attach if is_attach else self._stub.Generate)(request)
        try:
            async for message in call:
                yield wire.decode_event(message)
        finally:
            call.cancel()
