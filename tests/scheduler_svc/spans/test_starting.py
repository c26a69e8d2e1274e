"""Whether traces are sent, where to and how: by the flag, and by OpenTelemetry's variables."""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from scheduler_svc.spans import starting
from scheduler_svc.spans.incoming import incoming, pack, take_in, unpack
from scheduler_svc.spans.starting import is_http, is_wanted, start_tracing
from stepserve.protocol.errors import StepserveError
from tests.scheduler_svc.spans.collector import Collector, by_grpc, by_http

ENDPOINT, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
OF_TRACES = "OTEL_EXPORTER_OTLP_TRACES_"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("endpoint", "variables", "wanted"),
    [
        ("", {}, False),
        ("http://c:4317", {}, True),
        ("", {ENDPOINT: "http://c:4317"}, True),
        ("", {OF_TRACES + "ENDPOINT": "http://c:4317"}, True),
        ("http://c:4317", {"OTEL_SDK_DISABLED": "true"}, False),
        ("", {ENDPOINT: "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_off_unless_somebody_wants_them(
    endpoint: str, variables: Mapping[str, str], wanted: bool
) -> None:
    assert is_wanted(endpoint, variables) is wanted


@pytest.mark.parametrize(
    ("endpoint", "variables", "http"),
    [
        ("http://c:4317", {}, False),
        ("http://c:4318", {}, True),
        ("https://c/otlp/v1/traces", {}, True),
        ("http://c:4318", {PROTOCOL: "grpc"}, False),
        ("http://c:4317", {PROTOCOL: "grpc", OF_TRACES + "PROTOCOL": "http/protobuf"}, True),
        ("", {ENDPOINT: "http://c:4318"}, True),
        ("", {ENDPOINT: "http://c:4317/"}, False),
    ],
)
def test_by_grpc_or_by_http(endpoint: str, variables: Mapping[str, str], http: bool) -> None:
    assert is_http(endpoint, variables) is http


def test_another_protocol_is_refused_by_name() -> None:
    with pytest.raises(StepserveError, match="http/json"):
        is_http("http://c", {PROTOCOL: "http/json"})


@pytest.mark.parametrize("collecting", [by_grpc, by_http])
def test_a_span_reaches_a_real_collector(
    collecting: Callable[[], AbstractContextManager[Collector]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROTOCOL, "grpc" if collecting is by_grpc else "http/protobuf")
    with collecting() as collector:
        tracing = start_tracing(collector.endpoint)
        assert tracing is not None
        with tracing.submitting({"stepserve.tenant": "acme"}):
            pass
        tracing.close()
        [span] = collector.spans
    assert (span.name, span.told) == ("submit", {"stepserve.tenant": "acme"})
    assert span.of_service["service.name"] == "stepserve"
    assert span.of_service["service.instance.id"]


def test_without_the_library_a_flag_is_an_error_and_a_variable_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StepserveError, match=r"pip install 'stepserve\[traces\]'"):
        start_tracing("http://c:4317")
    monkeypatch.setenv(ENDPOINT, "http://c:4317")
    with caplog.at_level(logging.WARNING, starting.__name__):
        assert start_tracing("") is None
    assert "stepserve[traces]" in caplog.text


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({}, ""),
        ({"traceparent": "00-a-b-01"}, "00-a-b-01"),
        ({"traceparent": "00-a-b-01", "tracestate": "x=1,y=2"}, "00-a-b-01 x=1,y=2"),
        ({"traceparent": "00-a-b-01", "tracestate": "x" * 600}, "00-a-b-01"),
        ({"traceparent": "x" * 600}, ""),
        ({"tracestate": "x=1"}, ""),
    ],
)
def test_a_context_is_kept_as_one_text(headers: Mapping[str, str], kept: str) -> None:
    take_in(headers)
    assert incoming() == pack(headers) == kept
    if kept and len(headers.get("tracestate", "")) < 513:
        assert unpack(kept) == headers
