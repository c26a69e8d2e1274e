"""The trace that a request is part of: what its client sent along, by W3C's Trace Context."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
# W3C asks for that much; a longer one is dropped, as it says.
MAX_STATE_CHARS = 512

_incoming: ContextVar[str] = ContextVar("trace_context", default="")


def take_in(headers: Mapping[str, str]) -> None:
    """Remember the context of a request for the rest of its task; names are in lower case."""
    _incoming.set(pack(headers))


def incoming() -> str:
    """Return the context of the request that is answered now; empty where it brought none."""
    return _incoming.get()


def pack(headers: Mapping[str, str]) -> str:
    """Return a context as one text, as it is kept with a job."""
    parent = headers.get(TRACEPARENT, "")
    if not parent or len(parent) > MAX_STATE_CHARS or " " in parent:
        return ""
    state = headers.get(TRACESTATE, "")
    return f"{parent} {state}" if 0 < len(state) <= MAX_STATE_CHARS else parent


def unpack(context: str) -> dict[str, str]:
    """Return it as headers again."""
    parent, _, state = context.partition(" ")
    return {TRACEPARENT: parent, **({TRACESTATE: state} if state else {})} if parent else {}
