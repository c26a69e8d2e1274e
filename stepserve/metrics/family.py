"""Metrics as values: what a source of them gives when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from stepserve.metrics.histogram import Histogram

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric and its values by their labels.

    ``name`` has neither the prefix nor a counter's ``_total``.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    values: Mapping[Labels, float | Histogram]


class Source(Protocol):
    """Whoever has metrics."""

    def families(self) -> Iterable[Family]:
        """Return them as they are now; called by another thread than the one that counts."""


def counter(name: str, help_: str, value: float) -> Family:
    return Family("counter", name, help_, {(): value})


def counters(name: str, help_: str, label: str, values: Mapping[str, float]) -> Family:
    """Return a counter with a value for each value of one label."""
    return Family("counter", name, help_, _labelled(label, values))


def gauge(name: str, help_: str, value: float) -> Family:
    return Family("gauge", name, help_, {(): value})


def gauges(name: str, help_: str, label: str, values: Mapping[str, float]) -> Family:
    """Return a gauge with a value for each value of one label."""
    return Family("gauge", name, help_, _labelled(label, values))


def info(name: str, help_: str, labels: Mapping[str, str]) -> Family:
    """Return a gauge of 1 whose labels are what there is to say."""
    return Family("gauge", name, help_, {tuple(labels.items()): 1.0})


def histogram(name: str, help_: str, values: Histogram) -> Family:
    return Family("histogram", name, help_, {(): values})


def histograms(name: str, help_: str, label: str, values: Mapping[str, Histogram]) -> Family:
    """Return a histogram for each value of one label."""
    return Family("histogram", name, help_, _labelled(label, values))


def _labelled(
    label: str, values: Mapping[str, float] | Mapping[str, Histogram]
) -> dict[Labels, float | Histogram]:
    # Whoever counts may add a value meanwhile; a copy is made in one step of the interpreter.
    found: dict[str, float | Histogram] = dict(values)
    return {((label, key),): value for key, value in found.items()}
