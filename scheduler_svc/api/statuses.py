"""Errors to gRPC statuses, once, for all methods."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from stepserve.protocol.errors import (
    BegunAnew,
    Exhausted,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from stepserve.protocol.status_details import text_of, trailers_of

log = logging.getLogger(__name__)

# What may reach a client; any other error is a bug of ours.
_EXPECTED = (
    InvalidRequest, NotFound, Unauthenticated, Forbidden, BegunAnew, Exhausted, Unavailable,
)  # fmt: skip
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call whose handler raises with the error's status.

    What is no error of ours is a bug: it is logged without its message, which may quote
    a prompt, and the client learns only that it is internal.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/stepserve."):
            return handler
        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        behaviour = getattr(handler, kind)

        parse = handler.request_deserializer
        assert parse is not None

        async def guarded(data: bytes, context: Any) -> Any:
            try:
                return await behaviour(_parsed(parse, data), context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                await abort(context, error, handler_call_details.method)

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        made: Handler = make(
            guarded,
            # Bytes come as they are: gRPC would answer UNKNOWN to those that are no message.
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )
        return made


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except Exception as error:  # protobuf's are of several kinds
        raise InvalidRequest("request", "is not a message of this method") from error


async def abort(context: Any, error: Exception, method: str) -> NoReturn:
    """End a call with an error's status."""
    if isinstance(error, _EXPECTED):
        code = grpc.StatusCode[error.code]
        await context.abort(code, text_of(error), trailers_of(error, code.value[0]))
    stack = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s failed with %s\n%s", method, type(error).__name__, stack)
    text = "an internal error; the server's log has more"
    await context.abort(grpc.StatusCode.INTERNAL, text)
    raise AssertionError("abort raises")
