"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stepserve.metrics.family import Family, Source
from stepserve.metrics.histogram import Histogram

_SIMPLE = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


@dataclass(frozen=True, slots=True)
class Page:
    """A body, and what kind of text it is."""

    body: bytes
    content_type: str


class Exposition(Collector):
    """All metrics of a process: those of its sources and what the system knows of it.

    ``prefix`` and a colon stand before their names, as vLLM has it. May be rendered by any
    thread.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._sources: list[tuple[Source, str]] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source, model: str = "") -> None:
        """Let what ``source`` has be told from now on, as of a model (label "model_name").

        Of none where it is empty: HTTP's requests are made before any is known.
        """
        self._sources.append((source, model))

    def render(self) -> Page:
        """Return the metrics in Prometheus's text form, whatever form is asked for.

        Every version reads it. In that of OpenMetrics the library's encoder (0.22 to 0.26) makes
        an underscore of a name's colon, in its samples alone.
        """
        return Page(generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def collect(self) -> Iterator[Metric]:
        """Yield every family once, with the values of all models, for the registry."""
        found: defaultdict[str, list[tuple[str, Family]]] = defaultdict(list)
        for source, model in list(self._sources):
            for family in source.families():
                found[family.name].append((model, family))
        for name, families in found.items():
            yield _metric(f"{self._prefix}:{name}", families)


def _metric(name: str, families: Sequence[tuple[str, Family]]) -> Metric:
    """Return one metric of several models; what has no values yet does not say its labels."""
    [_, first] = families[0]
    with_labels = [labels for _, family in families for labels in family.values][:1]
    keys = ["model_name", *(key for labels in with_labels for key, _ in labels)]
    spread = HistogramMetricFamily(name, first.help, labels=keys)
    simple = _SIMPLE.get(first.kind, GaugeMetricFamily)(name, first.help, labels=keys)
    for model, family in families:
        for labels, value in family.values.items():
            texts = [model, *(text for _, text in labels)]
            if isinstance(value, Histogram):
                spread.add_metric(texts, _buckets(value), value.total)
            else:
                simple.add_metric(texts, value)
    return spread if first.kind == "histogram" else simple


def _buckets(values: Histogram) -> list[tuple[str, float]]:
    """Return the counts up to each bound, those before it included."""
    bounds = [*map(str, map(float, values.bounds)), "+Inf"]
    return list(zip(bounds, accumulate(list(values.counts)), strict=True))
