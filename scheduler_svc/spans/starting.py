"""Tracing as the settings and OpenTelemetry's own variables have it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stepserve.process.extras import NotInstalled
from stepserve.protocol.errors import StepserveError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from scheduler_svc.spans.tracing import Tracing

log = logging.getLogger(__name__)

EXTRA = "traces"
_OF_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"
_OF_ALL = "OTEL_EXPORTER_OTLP_"
HTTP_PORT = 4318
_PATH = "/v1/traces"


def start_tracing(endpoint: str) -> Tracing | None:
    """Return what traces jobs, None where nobody wants it.

    ``endpoint`` empty: as the variables say. Raises StepserveError where it can't be had.
    """
    if not is_wanted(endpoint, os.environ):
        return None
    try:
        return _started(endpoint)
    except ImportError:
        if endpoint:
            raise NotInstalled("--otlp-endpoint", "opentelemetry", EXTRA) from None
        missing = NotInstalled("what OTEL_EXPORTER_OTLP_ENDPOINT asks for", "opentelemetry", EXTRA)
        log.warning("there are no traces: %s", missing)
        return None


def is_wanted(endpoint: str, variables: Mapping[str, str]) -> bool:
    """Whether traces are to be sent anywhere."""
    if variables.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if variables.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(endpoint or _variable("ENDPOINT", variables))


def is_http(endpoint: str, variables: Mapping[str, str]) -> bool:
    """Whether a collector is spoken to over HTTP, else over gRPC.

    The variables decide; else the port that each has, and a path that only HTTP has.
    Raises StepserveError for another protocol.
    """
    protocol = _variable("PROTOCOL", variables)
    if protocol not in ("", "grpc", "http/protobuf"):
        raise StepserveError(
            f"OTLP over {protocol!r} is not spoken here, grpc and http/protobuf are"
        )
    if protocol:
        return protocol != "grpc"
    parts = urlsplit(endpoint or _variable("ENDPOINT", variables))
    return parts.port == HTTP_PORT or parts.path.strip("/") != ""


def _variable(name: str, variables: Mapping[str, str]) -> str:
    return variables.get(_OF_TRACES + name) or variables.get(_OF_ALL + name, "")


def _started(endpoint: str) -> Tracing:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from scheduler_svc.spans.tracing import Tracing

    told = {"service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    named = os.environ.get("OTEL_SERVICE_NAME", "")
    if not named and "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        told["service.name"] = "stepserve"
    provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
    return Tracing(provider)


def _exporter(endpoint: str) -> SpanExporter:
    """Where none is named the exporters read the variables themselves."""
    if is_http(endpoint, os.environ):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

        # The variable that is for all signals has no path of its own either.
        whole = (
            endpoint
            if not endpoint or urlsplit(endpoint).path.strip("/")
            else (endpoint.rstrip("/") + _PATH)
        )
        return ByHttp(endpoint=whole or None)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

    # As with all that we speak to: without https it is plain.
    is_plain = not endpoint.startswith("https://") if endpoint else None
    return ByGrpc(endpoint=endpoint or None, insecure=is_plain)
