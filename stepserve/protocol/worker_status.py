"""What schedulers know of a worker, as a value: its record in Redis, and what clients are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as a scheduler that it answers sees it. Times are seconds, by Redis's clock.

    ``worker_id`` is the HOST:PORT where schedulers find it; what it can hold is as worker.proto
    has it. ``driver`` is the scheduler that drives it, since ``driven_since_s``; "" where none
    does, and ``note`` says why where that is not for want of one. ``seen_s``: when it last
    answered any. The numbers of sequences and blocks are its driver's. A step's times are of the
    last ``num_recent_steps``, None where there are none.
    """

    worker_id: str
    model: str
    incarnation: str = ""
    fingerprint: str = ""
    dtype: str = ""
    device: str = ""
    version: str = ""
    vocab_size: int = 0
    max_context: int = 0
    block_size: int = 0
    num_blocks: int = 0
    max_batch_size: int = 0
    max_step_tokens: int = 0
    num_stages: int = 1
    tensor_parallel: int = 1
    driver: str = ""
    driven_since_s: float = 0.0
    seen_s: float = 0.0
    note: str = ""
    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    num_recent_steps: int = 0
    step_p50_s: float | None = None
    step_p99_s: float | None = None
