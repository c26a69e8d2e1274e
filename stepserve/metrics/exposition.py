"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    ``labels`` stand at each of the sources' values; ``prefix`` and a colon before their names,
    as vLLM has it. May be rendered by any thread.
    """

    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._labels = dict(labels)
        self._sources: list[Source] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def add(self, source: Source) -> None:
        """Let what ``source`` has be told from now on."""
        self._sources.append(source)

    def render(self) -> Page:
        """Return the metrics in Prometheus's text form, whatever form is asked for.

        Every version reads it. In that of OpenMetrics the library's encoder (0.22 to 0.26) makes
        an underscore of a name's colon, in its samples alone.
        """
        return Page(generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for the registry."""
        for source in list(self._sources):
            for family in source.families():
                yield self._metric(family)

    def _metric(self, family: Family) -> Metric:
        name = f"{self._prefix}:{family.name}"
        keys = [*self._labels, *(key for key, _ in next(iter(family.values), ()))]
        spread = HistogramMetricFamily(name, family.help, labels=keys)
        simple = _SIMPLE.get(family.kind, GaugeMetricFamily)(name, family.help, labels=keys)
        for labels, value in family.values.items():
            texts = [*self._labels.values(), *(text for _, text in labels)]
            if isinstance(value, Histogram):
                spread.add_metric(texts, _buckets(value), value.total)
            else:
                simple.add_metric(texts, value)
        return spread if family.kind == "histogram" else simple


def _buckets(values: Histogram) -> list[tuple[str, float]]:
    """Return the counts up to each bound, those before it included."""
    bounds = [*map(str, map(float, values.bounds)), "+Inf"]
    return list(zip(bounds, accumulate(list(values.counts)), strict=True))
