"""Who may drive the worker: who shows the fleet's token, where there is one.

A certificate is asked for by TLS itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from stepserve.protocol.step_wire import SERVICE_NAME
from stepserve.tls.fleet import AUTHORIZATION
from stepserve.tls.token import Token

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class FleetDoor(grpc.aio.ServerInterceptor):
    """Ends every call of the worker's service that does not show the token."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        is_ours = handler_call_details.method.startswith(f"/{SERVICE_NAME}/")
        if is_ours and not self._is_shown(handler_call_details.invocation_metadata):
            made: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
            return made
        return await continuation(handler_call_details)

    def _is_shown(self, metadata: Any) -> bool:
        shown = [value for name, value in metadata or () if name == AUTHORIZATION]
        return len(shown) == 1 and self._token.is_shown(shown[0])


async def _refuse(_requests: Any, context: Any) -> None:
    problem = "the fleet's token is needed: give the scheduler the worker's --fleet-token-file"
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, problem)
