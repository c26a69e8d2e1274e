"""The door of HTTP: who is let in, for which tenant, and what they are told of their quota."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Send

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.frontend.validate import MAX_TENANT_CHARS
from scheduler_svc.http.errors import ApiError

TENANT_HEADER = "x-tenant"
_KEY = "stepserve.jobs"


class Door:
    """Lets a request in as its caller, before its body is read.

    Without keys the tenant that a request names is believed, as gRPC's field is.
    """

    def __init__(self, front_ends: FrontEnds) -> None:
        self._front_ends = front_ends

    def enter(self, request: Request) -> None:
        """Note who asks. Raises ApiError, Unauthenticated, Forbidden."""
        tenant = request.headers.get(TENANT_HEADER, "")
        if len(tenant) > MAX_TENANT_CHARS:
            raise ApiError(400, f"{TENANT_HEADER} has more than {MAX_TENANT_CHARS} characters")
        caller = self._front_ends.guard.caller(request.headers.get("authorization", ""))
        request.scope[_KEY] = OwnJobs(self._front_ends, caller.speaking_for(tenant))

    def later(self, key_id: str, tenant: str) -> OwnJobs:
        """Return the jobs of who asked for something that is done now. Raises Unauthenticated."""
        return OwnJobs(self._front_ends, self._front_ends.guard.later(key_id, tenant))


def jobs_of(request: Request) -> OwnJobs:
    """Return the jobs of who asks: of one who came through the door."""
    jobs: OwnJobs = request.scope[_KEY]
    return jobs


def telling(scope: MutableMapping[str, Any], send: Send) -> Send:
    """Return what sends an answer with how the caller's quota stands by then."""
    jobs: OwnJobs | None = scope.get(_KEY)
    account = jobs.account if jobs is not None else None
    if account is None:
        return send

    async def tell(message: Message) -> None:
        if message["type"] == "http.response.start" and account.standing is not None:
            told = list(_headers(account.standing.rates()))
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        await send(message)

    return tell


def _headers(rates: Iterable[tuple[str, int, float, float]]) -> Iterator[tuple[bytes, bytes]]:
    """OpenAI's, of each rate."""
    for name, most, left, full_s in rates:
        yield f"x-ratelimit-limit-{name}".encode(), str(most).encode()
        yield f"x-ratelimit-remaining-{name}".encode(), str(max(0, int(left))).encode()
        yield f"x-ratelimit-reset-{name}".encode(), f"{full_s:.3f}s".encode()
