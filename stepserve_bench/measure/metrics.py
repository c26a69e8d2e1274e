"""What services count, read as Prometheus reads it."""

from __future__ import annotations

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "stepserve:"


def read_metrics(address: str, timeout_s: float) -> dict[str, float]:
    """Return the metrics of ``address`` (HOST:PORT), without prefix and labels, added up.

    Raises OSError where it does not answer within ``timeout_s``.
    """
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout_s) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix(PREFIX)
            found[name] = found.get(name, 0.0) + sample.value
    return found
