"""When to call again: after growing pauses, and not for ever."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from stepserve.client.errors import StepserveError, from_status

# CANCELLED is what a stopping server says of the streams that it cuts off.
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Pauses grow from ``first_pause_s`` to ``max_pause_s``, half of each is chance.

    After ``patience_s`` without success the last error is raised; 0 never tries again. ``tell``
    is called before each pause with what failed, and for how many seconds it has by now.
    """

    first_pause_s: float = 0.05
    max_pause_s: float = 2.0
    patience_s: float = 60.0
    tell: Callable[[StepserveError, float], object] | None = None


class Retry:
    """One thing that is tried until it succeeds."""

    def __init__(self, policy: RetryPolicy, end_s: float = math.inf) -> None:
        """Nothing is tried again from ``end_s`` on, by the monotonic clock."""
        self._policy = policy
        self._end_s = end_s
        self._num_failures = 0
        self._failing_since_s = 0.0

    def succeeded(self) -> None:
        self._num_failures = 0

    def pause_s(self, error: grpc.RpcError) -> float:
        """Return how long to wait before the next try, or raise what ``error`` stands for."""
        call: grpc.Call = error  # type: ignore[assignment]  # every RpcError of a call is one
        now_s = time.monotonic()
        if not self._num_failures:
            self._failing_since_s = now_s
        is_late = now_s - self._failing_since_s >= self._policy.patience_s
        if call.code() not in _TRANSIENT or is_late or now_s >= self._end_s:
            raise from_status(error) from error
        if self._policy.tell is not None:
            self._policy.tell(from_status(error), now_s - self._failing_since_s)
        pause_s = self._policy.first_pause_s * 2.0 ** min(self._num_failures, 30)
        self._num_failures += 1
        pause_s = min(pause_s, self._policy.max_pause_s) * random.uniform(0.5, 1.0)
        return min(pause_s, self._end_s - now_s)
