"""A service's metrics are read by their names, whatever labels they have."""

from __future__ import annotations

from collections.abc import Iterator

from stepserve.metrics.exposition import Exposition
from stepserve.metrics.family import Family, gauge, gauges
from stepserve.metrics.server import serve_status
from stepserve.metrics.vitals import Vitals
from stepserve_bench.measure.metrics import read_metrics


class Counted:
    def families(self) -> Iterator[Family]:
        yield gauge("lanes", "Lanes.", 2.0)
        yield gauges("jobs", "Jobs.", "tenant", {"a": 3.0, "b": 4.0})


def test_names_lose_their_prefix_and_labels_are_added_up() -> None:
    exposition = Exposition("stepserve")
    exposition.add(Counted(), model="m")
    with serve_status("127.0.0.1", 0, Vitals(), exposition) as address:
        found = read_metrics(address, 10.0)
    assert (found["lanes"], found["jobs"]) == (2.0, 7.0)
