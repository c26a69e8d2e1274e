"""The client for programs without asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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


class Client:
    """Talks to a scheduler at ``target``: HOST:PORT, or IP:PORT,IP:PORT for replicas.

    Every call is tried again while no service answers, as ``retry`` says, and is safe
    to: a submit has an idempotency key, and a stream goes on at the token where it broke.
    Methods raise ``stepserve.client.errors``. May be shared between threads; close it, or use
    it in a ``with``.
    """

    def __init__(
        self,
        target: str,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._retry = retry or RetryPolicy()
        if credentials is None:
            self._channel = grpc.insecure_channel(address(target), options=channel_options())
        else:
            self._channel = grpc.secure_channel(
                address(target), credentials, options=channel_options()
            )
        self._stub = InferenceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def submit(self, request: Request | str | None = None, **fields: Unpack[RequestFields]) -> str:
        """Store a job and return its id. ``request`` may be a prompt, or be all in ``fields``."""
        answer = self._call(self._stub.Submit, submission(request, fields))
        return str(answer.job_id)

    def generate(
        self, request: Request | str | None = None, **fields: Unpack[RequestFields]
    ) -> Iterator[StreamEvent]:
        """Submit and stream; the first event carries the job's id and nothing else."""
        sent = submission(request, fields)
        return self._follow(Following(sent, sent.sampling.n or 1))

    def attach(
        self, job_id: str, offset: int = 0, offsets: Sequence[int] = ()
    ) -> Iterator[StreamEvent]:
        """Stream a job's output from an offset on, or from one offset for each output."""
        return self._follow(Following(attachment(job_id, offset, offsets)))

    def complete(
        self, request: Request | str | None = None, **fields: Unpack[RequestFields]
    ) -> Completion:
        """Submit, wait for the end and return all of the output."""
        collector = Collector()
        for event in self.generate(request, **fields):
            collector.add(event)
        return collector.completion()

    def get(self, job_id: str) -> JobInfo:
        return wire.decode_job(self._call(self._stub.GetJob, wire.GetJobRequest(job_id=job_id)))

    def cancel(self, job_id: str) -> JobInfo:
        """End a job; one that has ended stays as it is. Returns how it stands then."""
        request = wire.CancelJobRequest(job_id=job_id)
        return wire.decode_job(self._call(self._stub.CancelJob, request))

    def list(
        self, state: JobState | None = None, tenant: str = "", limit: int = 0
    ) -> tuple[JobInfo, ...]:
        """Return at most ``limit`` jobs (0: 100), newest first."""
        answer = self._call(self._stub.ListJobs, listing(state, tenant, limit))
        return tuple(map(wire.decode_job, answer.jobs))

    def models(self) -> tuple[ModelInfo, ...]:
        return wire.decode_models(self._call(self._stub.ListModels, wire.ListModelsRequest()))

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        retry = Retry(self._retry)
        while True:
            try:
                return method(request)
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
            time.sleep(pause_s)

    def _follow(self, following: Following) -> Iterator[StreamEvent]:
        retry = Retry(self._retry)
        while not following.is_complete:
            if following.needs_outputs:
                following.num_outputs = len(self.get(following.job_id).outputs)
            try:
                for event in self._stream(following.request()):
                    retry.succeeded()
                    if (news := following.take(event)) is not None:
                        yield news
                following.closed()
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
                time.sleep(pause_s)

    def _stream(self, request: wire.SubmitRequest | wire.AttachRequest) -> Iterator[StreamEvent]:
        is_attach = isinstance(request, wire.AttachRequest)
        call = (self._stub.Attach if is_attach else self._stub.Generate)(request)
        try:
            for message in call:
                yield wire.decode_event(message)
        finally:
            call.cancel()
