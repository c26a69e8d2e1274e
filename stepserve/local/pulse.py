"""Whether a service still answers: its health is asked for again and again."""

from __future__ import annotations

import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stepserve.protocol.channel import channel_options

INTERVAL_S, TIMEOUT_S = 1.0, 2.0
# A process may be out of breath for a while; one that fails so often in a row is hung.
MAX_FAILURES = 10


class Pulse:
    """Asks the service at ``target`` in a thread of its own, from now until it is closed.

    Failures are counted, not time: while we stand still ourselves nobody grows old.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._closed = threading.Event()
        self._num_failures = 0
        self._has_served = False
        threading.Thread(target=self._ask, daemon=True).start()

    @property
    def is_lost(self) -> bool:
        """Whether it has served, and since then failed to say so too often in a row."""
        return self._has_served and self._num_failures >= MAX_FAILURES

    def forget(self) -> None:
        """Another process serves there from now on, and has to start first."""
        self._has_served = False
        self._num_failures = 0

    def close(self) -> None:
        self._closed.set()

    def _ask(self) -> None:
        with grpc.insecure_channel(self._target, options=channel_options()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self._closed.wait(INTERVAL_S):
                if _serves(stub):
                    self._has_served, self._num_failures = True, 0
                else:
                    self._num_failures += 1


def _serves(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        request = health_pb2.HealthCheckRequest()
        answer = stub.Check(request, timeout=TIMEOUT_S)  # type: ignore[attr-defined]
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
