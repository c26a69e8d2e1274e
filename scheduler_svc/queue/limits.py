"""The queue's bounds and its promise."""

from __future__ import annotations

from dataclasses import dataclass

from stepserve.protocol.choices import Durability, OnModelChange

# At this share of the memory Redis is full: no job is taken, and no ended one is spared.
FULL_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """``retention_s``: how long an ended job is remembered, while no more than
    ``max_ended_jobs`` and ``max_ended_bytes`` (of Redis's memory) are: the oldest go first.
    They go earlier where more than ``ended_memory_share`` of Redis's memory is taken.

    ``lease_grace_s``: an expired lease that nobody has taken for so long is given up
    and its jobs wait for another worker. ``timeout_s``: the time that one call to Redis
    may take, retries included. ``stranded_grace_s``: a queued job that no worker can run is
    ended after so long, or begun anew, as ``on_model_change`` says where that is why.
    """

    max_queued_jobs: int = 10_000
    retention_s: float = 86_400.0
    max_ended_jobs: int = 100_000
    max_ended_bytes: int = 2**30
    ended_memory_share: float = 0.8
    lease_grace_s: float = 15.0
    durability: Durability = "local"
    replica_timeout_s: float = 1.0
    timeout_s: float = 2.0
    max_connections: int = 16
    on_model_change: OnModelChange = "end"
    stranded_grace_s: float = 30.0
