"""The client for programs without asyncio."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Unpack

import grpc

from stepserve.client.calls import (
    CallOptions,
    Metadata,
    RequestFields,
    RunningCall,
    address,
    attachment,
    listing,
    submission,
    with_key,
)
from stepserve.client.completion import Collector, Completion
from stepserve.client.following import Following
from stepserve.client.reaching import reach
from stepserve.client.retry import Retry, RetryPolicy
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.channel import channel_options
from stepserve.protocol.errors import BegunAnew
from stepserve.protocol.inference import JobInfo, JobPage, JobState, ModelInfo, Request, StreamEvent
from stepserve.protocol.inference_rpc import InferenceStub
from stepserve.protocol.worker_status import WorkerStatus


class Client:
    """Talks to a scheduler at ``target``: HOST:PORT, or IP:PORT,IP:PORT for replicas.

    Every call is tried again while no service answers, as ``retry`` says, and is safe
    to: a submit has an idempotency key, and a stream goes on at the token where it broke.
    ``api_key`` is shown with every call (None: STEPSERVE_API_KEY's); ``credentials`` are what
    ``stepserve.channel_credentials`` makes, for a service that speaks TLS.
    Methods raise ``stepserve.client.errors``. May be shared between threads; close it, or use
    it in a ``with``.
    """

    def __init__(
        self,
        target: str,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: CallOptions | None = None,
        *,
        api_key: str | None = None,
    ) -> None:
        self._retry = retry or RetryPolicy()
        self._options = with_key(options or CallOptions(), api_key)
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

    def with_options(self, *, timeout_s: float | None = None, metadata: Metadata = ()) -> Client:
        """Return a client over the same connection whose calls take ``timeout_s`` at most.

        A stream is one call, from its begin to its end. ``metadata`` is sent besides what this
        client sends. What takes longer raises TimedOut; no job ends by it. Closing one of them
        closes both.
        """
        other = copy.copy(self)
        other._options = self._options.changed(timeout_s, metadata)
        return other

    def reach(self, timeout_s: float, refused_s: float | None = None) -> None:
        """Connect within ``timeout_s`` seconds; tells nothing of how the service is.

        Where attempts fail, as they do where nothing listens, it is tried for ``refused_s`` only.
        Raises Unreached.
        """
        reach(self._channel, timeout_s, timeout_s if refused_s is None else refused_s)

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
        return _collected(self.generate(request, **fields))

    def result(self, job_id: str, timeout: float | None = None) -> Completion:
        """Wait for a job's end, ``timeout`` seconds at most, and return all of its output.

        Raises TimedOut, which is a TimeoutError; the job goes on then.
        """
        within = self.with_options(timeout_s=timeout)
        end_s = within._options.begin().end_s
        while True:
            try:
                return _collected(within.attach(job_id))
            except BegunAnew:
                within = within.with_options(timeout_s=max(0.0, end_s - time.monotonic()))

    def get(self, job_id: str) -> JobInfo:
        return wire.decode_job(self._call(self._stub.GetJob, wire.GetJobRequest(job_id=job_id)))

    def cancel(self, job_id: str) -> JobInfo:
        """End a job; one that has ended stays as it is. Returns how it stands then."""
        request = wire.CancelJobRequest(job_id=job_id)
        return wire.decode_job(self._call(self._stub.CancelJob, request))

    def delete(self, job_id: str) -> None:
        """Forget a job and all that is kept of it; one that goes on is cancelled first."""
        self._call(self._stub.DeleteJob, wire.DeleteJobRequest(job_id=job_id))

    def list(
        self, state: JobState | None = None, tenant: str = "", limit: int = 0, model: str = ""
    ) -> tuple[JobInfo, ...]:
        """Return at most ``limit`` jobs (0: 100), newest first; of all models for ""."""
        return self.page(state, tenant, limit, model=model).jobs

    def page(
        self,
        state: JobState | None = None,
        tenant: str = "",
        limit: int = 0,
        page_token: str = "",
        model: str = "",
    ) -> JobPage:
        """Return some jobs, newest first; its ``next_page_token`` asks for those after them."""
        request = listing(state, tenant, limit, page_token, model)
        return wire.decode_jobs(self._call(self._stub.ListJobs, request))

    def models(self) -> tuple[ModelInfo, ...]:
        return wire.decode_models(self._call(self._stub.ListModels, wire.ListModelsRequest()))

    def workers(self, model: str = "") -> tuple[WorkerStatus, ...]:
        """Return what schedulers know of workers, of all models or of one, served here or not."""
        request = wire.ListWorkersRequest(model=model)
        return wire.decode_workers(self._call(self._stub.ListWorkers, request))

    def _call(
        self, method: Callable[..., Any], request: Any, running: RunningCall | None = None
    ) -> Any:
        running = running or self._options.begin()
        retry = Retry(self._retry, running.end_s)
        while True:
            try:
                return method(request, **running.arguments())
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
            time.sleep(pause_s)

    def _follow(self, following: Following) -> Iterator[StreamEvent]:
        running = self._options.begin()
        retry = Retry(self._retry, running.end_s)
        while not following.is_complete:
            if following.needs_outputs:
                asked = wire.GetJobRequest(job_id=following.job_id)
                job = self._call(self._stub.GetJob, asked, running)
                following.num_outputs = len(job.outputs)
            try:
                for event in self._stream(following.request(), running):
                    retry.succeeded()
                    if (news := following.take(event)) is not None:
                        yield news
                following.closed()
            except grpc.RpcError as error:
                pause_s = retry.pause_s(error)
                time.sleep(pause_s)

    def _stream(
        self, request: wire.SubmitRequest | wire.AttachRequest, running: RunningCall
    ) -> Iterator[StreamEvent]:
        is_attach = isinstance(request, wire.AttachRequest)
        method = self._stub.Attach if is_attach else self._stub.Generate
        call = method(request, **running.arguments())
        try:
            for message in call:
                yield wire.decode_event(message)
        finally:
            call.cancel()


def _collected(events: Iterable[StreamEvent]) -> Completion:
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.completion()
