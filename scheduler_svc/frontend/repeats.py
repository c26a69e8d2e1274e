"""Requests that come again under their idempotency key: each has the job that the first one has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from scheduler_svc.queue import Account, JobQueue, Submitted
from stepserve.protocol.errors import Forbidden, InvalidRequest, StepserveError
from stepserve.protocol.inference import Request
from stepserve.protocol.inference_fit import fitting
from stepserve.protocol.request_digest import request_digest


class Repeats:
    """Whatever would be accepted by now, and whichever version accepted it."""

    def __init__(self, queue: JobQueue, model: str) -> None:
        self._queue = queue
        self._model = model

    async def first(
        self, request: Request, account: Account | None, error: StepserveError
    ) -> Submitted:
        """Return the job of a request that was accepted before. Raises ``error`` for another."""
        if job_id := await self.job_of(request, account):
            return Submitted(job_id, existed=True)
        raise error

    async def job_of(self, request: Request, account: Account | None) -> str:
        """Return the job of a request that was accepted before; empty where there is none."""
        try:
            asked = fitting(request)
            digests = {request_digest(each, self._model) for each in _told_apart(asked, account)}
        except InvalidRequest:
            return ""  # What does not fit its fields was never accepted.
        return await self._queue.stored_for(asked.tenant, asked.idempotency_key, digests)


def _told_apart(request: Request, account: Account | None) -> Iterator[Request]:
    """What digests are of: what is asked and, in versions before, with its key's priority."""
    yield request
    if account is not None:
        with contextlib.suppress(Forbidden):
            yield replace(request, priority=account.priority(request.priority))
