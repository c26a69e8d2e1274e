"""One request, as every route is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp

from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.http.door import jobs_of
from scheduler_svc.http.errors import ApiError

MAX_KEY_CHARS = 200
# What a route returns: something that sends itself.
Answer: TypeAlias = ASGIApp


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked, of whose jobs, and how it goes on from before.

    ``key`` is the idempotency key, empty where there is none; ``last_event_id`` the last event
    that the client has read of this stream.
    """

    body: Mapping[str, Any]
    jobs: OwnJobs
    key: str = ""
    last_event_id: str = ""

    @property
    def tenant(self) -> str:
        """Whose jobs they are."""
        return self.jobs.tenant

    @property
    def grace_s(self) -> float | None:
        """How long its client may be away before its job is cancelled.

        With a key it can come back, and has the usual time for it.
        """
        return None if self.key else 0.0

    @property
    def can_resume(self) -> bool:
        """Whether its client can go on with a stream, which is when events say their places.

        Some clients, `vllm bench serve` among them, take all of an event for its data: who can't
        come back is told nothing beside it.
        """
        return bool(self.key or self.last_event_id)


def call_of(request: Request, body: Mapping[str, Any]) -> Call:
    """Return a request as a call. Raises ApiError where a header is wrong."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_KEY_CHARS:
        problem = f"the Idempotency-Key has more than {MAX_KEY_CHARS} characters"
        raise ApiError(400, problem, param="idempotency_key")
    last_event_id = request.headers.get("last-event-id", "")[:MAX_KEY_CHARS]
    return Call(body, jobs_of(request), key, last_event_id)
