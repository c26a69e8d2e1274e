"""What is counted, and what is said to limit."""

from __future__ import annotations

from typing import Any

import pytest

from stepserve.cli import parse
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.scaling.clients import Served
from stepserve_bench.scaling.limit import first_limit
from stepserve_bench.scaling.service import Size, measure


@pytest.mark.parametrize(
    ("share", "lane", "others", "said"),
    [
        (0.95, 1.0, 1.0, ""),
        (0.6, 0.97, 0.1, "lane fills a core"),
        (0.6, 0.5, 1.3, "the machine's 2 cores; of the service lane has the most, 0.50"),
        (0.6, 0.2, 0.1, "waiting: nobody fills a core"),
    ],
)
def test_the_first_limit(share: float, lane: float, others: float, said: str) -> None:
    assert first_limit(share, {"redis": 0.1, "lane": lane}, others, 2) == said


def test_only_what_came_in_time_counts() -> None:
    served = Served(tokens=[(0.9, 5), (1.0, 6), (1.9, 7), (2.0, 8)], ends_s=[0.5, 1.5, 2.5])
    assert served.within(1.0, 2.0) == (13, 1)


def test_the_ideal_is_every_place_in_every_step() -> None:
    assert Size(workers=4, schedulers=2, places=16, step_ms=20.0).ideal_tokens_per_s == 3200


@pytest.mark.parametrize("workers", ["", "0", "1,x"])
def test_what_is_no_number_is_refused(workers: str) -> None:
    with pytest.raises(InvalidRequest, match="workers"):
        parse(["bench", "scaling", f"--workers={workers}"]).run()


@pytest.mark.long
def test_two_workers_are_measured() -> None:
    found: dict[str, Any] = measure(Size(2, 1, 4, 50.0), num_tokens=40, seconds=3.0, num_clients=1)
    assert 0.3 < found["share_of_ideal"] <= 1.05
    assert found["jobs_per_s"] > 0
    # A commit for each step of each worker.
    assert found["commits_per_s"] <= 2 * 1000 / 50 * 1.1
    assert found["cores"].keys() >= {"redis", "worker-0", "worker-1", "scheduler-0"}
