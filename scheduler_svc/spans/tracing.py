"""Spans of jobs. This file and the one that starts it alone know OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scheduler_svc.spans.incoming import incoming, pack, unpack
from stepserve.process.version import own_version
from stepserve.protocol.job import JobSpec

Value = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Value]
# How long the end of a process waits for the last spans to be sent.
CLOSE_TIMEOUT_S = 2.0

_W3C = TraceContextTextMapPropagator()


class Piece:
    """A span that goes on."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def context(self) -> str:
        """What makes other spans its children, as it is kept with a job."""
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(self._span))
        return pack(headers)

    def note(self, attributes: Attributes) -> None:
        """Say more of it."""
        self._span.set_attributes(dict(attributes))

    def happened(self, what: str, at_ns: int | None = None) -> None:
        """Something happened in it."""
        self._span.add_event(what, timestamp=at_ns)

    def failed(self, why: str) -> None:
        """It came to no good end. Never a text that might quote a prompt."""
        self._span.set_status(StatusCode.ERROR, why)

    def end(self, attributes: Attributes | None = None, at_ns: int | None = None) -> None:
        """It is over."""
        self.note(attributes or {})
        self._span.end(at_ns)


class Tracing:
    """Makes spans, and sends them as its provider does. Close it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("stepserve", own_version())

    @contextmanager
    def submitting(self, attributes: Attributes) -> Iterator[Piece]:
        """Yield the span in which a job is taken in: a child of what its client sent along."""
        span = self._tracer.start_span(
            "submit", _parent(incoming()), SpanKind.SERVER, dict(attributes)
        )
        piece = Piece(span)
        try:
            yield piece
        except BaseException as error:
            piece.failed(type(error).__name__)
            raise
        finally:
            piece.end()

    def begin(
        self, name: str, context: str, attributes: Attributes, at_ns: int | None = None
    ) -> Piece:
        """Return a new span of a job: a child of the one that its context names.

        Where its client asks for something else in another trace now, that is linked.
        """
        asked = get_current_span(_parent(incoming())).get_span_context()
        parent = get_current_span(_parent(context)).get_span_context()
        links = [Link(asked)] if asked.is_valid and asked.trace_id != parent.trace_id else []
        started_ns = time.time_ns() if at_ns is None else at_ns
        span = self._tracer.start_span(
            name, _parent(context), SpanKind.INTERNAL, dict(attributes), links, started_ns
        )
        return Piece(span)

    def flush(self) -> None:
        """Send all that is over."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what is left, for as long as may be waited for it. May be called by any thread."""
        sending = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(CLOSE_TIMEOUT_S)


def job_attributes(spec: JobSpec) -> dict[str, Value]:
    """Return what every span of a job says of it."""
    return {
        "stepserve.job.id": spec.job_id,
        "stepserve.tenant": spec.tenant,
        "stepserve.priority": spec.priority,
        "gen_ai.request.model": spec.model,
    }


def _parent(context: str) -> Context:
    """Return the context that is written so; one without a span where it is none."""
    return _W3C.extract(unpack(context), set_span_in_context(INVALID_SPAN, Context()))
