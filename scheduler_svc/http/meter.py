"""How HTTP's requests were answered, in numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from stepserve.metrics.family import Family, Labels, gauge
from stepserve.metrics.histogram import Histogram

# In seconds; a stream's is as long as its job takes.
_ANSWER_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900,
    3600,
)  # fmt: skip
# As nginx has it: nobody was there any more to hear the answer.
CLIENT_LEFT = 499
# Of what no route is there for; clients choose such paths, so they have no names here.
NO_ROUTE = "(none)"


class HttpMeter:
    """Counts answers by route, method and status, and how long requests took by route."""

    def __init__(self) -> None:
        self.clock = time.monotonic
        self.num_open = 0
        self._num_answers: Counter[Labels] = Counter()
        self._answer_s: dict[Labels, Histogram] = {}
        self._begin_s: dict[Labels, Histogram] = {}

    def begun(self, route: str, begin_s: float) -> None:
        """Its answer's head can be sent, so long after the request's head was there."""
        self._of(self._begin_s, route).observe(begin_s)

    def answered(self, method: str, route: str, status: int, answer_s: float) -> None:
        """A request was answered to its end, or its client left."""
        labels = (("route", route), ("method", method), ("status", str(status)))
        self._num_answers[labels] += 1
        self._of(self._answer_s, route).observe(answer_s)

    def refused(self, status: int) -> None:
        """A request was refused before any route had it."""
        labels = (("route", NO_ROUTE), ("method", NO_ROUTE), ("status", str(status)))
        self._num_answers[labels] += 1

    def families(self) -> Iterable[Family]:
        """Return them as they are now."""
        yield gauge(
            "http_requests_open", "HTTP requests being answered, streams too.", self.num_open
        )
        answers = dict(self._num_answers)
        yield Family("counter", "http_requests", "HTTP requests answered.", answers)
        yield Family(
            "histogram",
            "http_response_start_seconds",
            "From an HTTP request's head to its answer's.",
            dict(self._begin_s),
        )
        yield Family(
            "histogram",
            "http_request_duration_seconds",
            "From an HTTP request's head to its answer's end.",
            dict(self._answer_s),
        )

    @staticmethod
    def _of(histograms: dict[Labels, Histogram], route: str) -> Histogram:
        labels: Labels = (("route", route),)
        if (found := histograms.get(labels)) is None:
            found = histograms[labels] = Histogram(_ANSWER_S)
        return found
