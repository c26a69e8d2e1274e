"""The door of gRPC: who is let in, and as whom."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from scheduler_svc.access.caller import Caller
from scheduler_svc.access.guard import Guard
from scheduler_svc.api.statuses import Handler, abort
from stepserve.protocol.errors import Unauthenticated

AUTHORIZATION = "authorization"
# What else is served tells nothing of jobs: health, which probes ask for, and reflection.
GUARDED = "/stepserve."


def caller_of(guard: Guard, metadata: Iterable[tuple[str, str | bytes]] | None) -> Caller:
    """Return who calls. Raises Unauthenticated."""
    shown = [value for name, value in metadata or () if name == AUTHORIZATION]
    if len(shown) > 1:
        raise Unauthenticated("there is more than one authorization")
    [said] = shown or [""]
    return guard.caller(said if isinstance(said, str) else said.decode(errors="replace"))


class DoorInterceptor(grpc.aio.ServerInterceptor):
    """Ends every call of our services that shows no good key, before its request is looked at."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        if method.startswith(GUARDED):
            try:
                caller_of(self._guard, handler_call_details.invocation_metadata)
            except Unauthenticated as error:
                return _refusal(error, method)
        return await continuation(handler_call_details)


def _refusal(error: Unauthenticated, method: str) -> Handler:
    async def refuse(_requests: Any, context: Any) -> None:
        await abort(context, error, method)

    # Of streams: it is called before there is a request.
    made: Handler = grpc.stream_stream_rpc_method_handler(refuse)
    return made
