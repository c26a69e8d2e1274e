"""Metrics as values, and as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from stepserve.metrics.exposition import Exposition
from stepserve.metrics.family import Family, counter, counters, gauge, histogram, histograms, info
from stepserve.metrics.histogram import Histogram


class Some:
    def families(self) -> Iterable[Family]:
        spread = Histogram((0.1, 1))
        for value in (0.1, 0.5, 7.0):
            spread.observe(value)
        spread.observe(0.2, 10)
        yield histogram("latency_seconds", "How long.", spread)
        yield histograms("call_seconds", "How long.", "side", {"api": spread, "lane": spread})
        yield counter("tokens", "How many.", 3)
        yield counters("success", "How many.", "reason", {'st"op\n': 2})
        yield gauge("running", "How many.", 4)
        yield info("config_info", "What.", {"block_size": "16"})
        yield counters("never", "None so far.", "reason", {})


def samples(text: str) -> dict[str, float]:
    return {
        "".join([sample.name, *(f"|{v}" for _, v in sorted(sample.labels.items()))]): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def page(prefix: str = "stepserve") -> str:
    exposition = Exposition(prefix)
    exposition.add(Some(), "m")
    return exposition.render().body.decode()


def test_values_are_read_as_they_are() -> None:
    told = samples(page())
    assert told["stepserve:latency_seconds_bucket|0.1|m"] == 1
    assert told["stepserve:latency_seconds_bucket|1.0|m"] == 12
    assert told["stepserve:latency_seconds_bucket|+Inf|m"] == 13
    assert told["stepserve:latency_seconds_count|m"] == 13
    assert told["stepserve:latency_seconds_sum|m"] == pytest.approx(9.6)
    assert told["stepserve:call_seconds_count|m|lane"] == 13
    assert told["stepserve:tokens_total|m"] == 3
    assert told['stepserve:success_total|m|st"op\n'] == 2
    assert told["stepserve:running|m"] == 4
    assert told["stepserve:config_info|16|m"] == 1
    assert told["process_resident_memory_bytes"] > 0


class Failed:
    def __init__(self, reasons: dict[str, float]) -> None:
        self._reasons = reasons

    def families(self) -> Iterable[Family]:
        yield counters("failed", "How many.", "reason", self._reasons)


@pytest.mark.parametrize("first", [{}, {"x": 1.0}])
def test_several_models_are_values_of_one_metric(first: dict[str, float]) -> None:
    exposition = Exposition("stepserve")
    exposition.add(Failed(first), "a")
    exposition.add(Failed({"y": 2.0}), "b")
    text = exposition.render().body.decode()
    assert text.count("# TYPE stepserve:failed_total counter") == 1
    told = {name: value for name, value in samples(text).items() if "failed_total" in name}
    assert told.pop("stepserve:failed_total|b|y") == 2
    assert told == {f"stepserve:failed_total|a|{reason}": n for reason, n in first.items()}


def test_a_prefix_of_vllm_gives_its_names() -> None:
    told = samples(page("vllm"))
    assert "vllm:running|m" in told
    assert not [name for name in told if name.startswith("stepserve")]
