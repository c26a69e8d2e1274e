"""All metrics of one worker."""

from __future__ import annotations

from collections.abc import Iterable

from stepserve.metrics.family import Family, counter, gauge, histogram, info
from worker_svc.engine import Engine


class WorkerMetrics:
    """What an engine has counted, and what it holds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def families(self) -> Iterable[Family]:
        """Return it as it is now."""
        yield from self._of_device()
        yield from self._of_commands()
        told = self._engine.info
        labels = {
            "incarnation": told.incarnation,
            "fingerprint": told.fingerprint,
            "dtype": told.dtype,
            "num_blocks": str(told.num_blocks),
            "block_size": str(told.block_size),
            "max_context": str(told.max_context),
            "max_batch_size": str(told.max_batch_size),
        }
        yield info("worker_info", "What the worker is.", labels)

    def _of_device(self) -> Iterable[Family]:
        tally, engine = self._engine.tally, self._engine
        step_s = tally.step_s
        yield histogram("worker_step_duration_seconds", "Device time of a step.", step_s)
        yield counter(
            "worker_device_busy_seconds",
            "Device time of all steps; what is missing from the time that passes is idle.",
            step_s.total,
        )
        yield counter(
            "worker_device_starved_seconds",
            "Time without a step while there were sequences.",
            tally.starved_s,
        )
        yield gauge("worker_stuck", "1 while a step takes too long.", float(engine.is_stuck))
        yield gauge("worker_sequences", "Sequences that the worker holds.", engine.num_residents)
        yield counter("worker_generation_tokens", "Tokens chosen.", tally.num_tokens)
        yield counter("worker_positions", "Token positions computed.", tally.num_positions)
        yield counter("worker_context", "Key positions that attention read.", tally.num_context)

    def _of_commands(self) -> Iterable[Family]:
        tally = self._engine.tally
        yield counter("worker_hellos", "Lanes that began to drive the worker.", tally.num_hellos)
        yield counter(
            "stale_commands_refused",
            "Streams and commands of a lane that drives the worker no more, or never did.",
            tally.num_refused,
        )
