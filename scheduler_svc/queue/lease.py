"""The right to drive a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepserve.protocol.errors import StepserveError


class Fenced(StepserveError):
    """Somebody else has the lease now; nothing was changed. Drop what it covered."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Proof of the right to drive ``worker_id``, good until a higher epoch is given out.

    ``num_inherited``: jobs that were claimed by who had it before, and are claimed still.
    """

    worker_id: str
    holder: str
    epoch: int
    ttl_ms: int
    num_inherited: int = 0

    def checked(self, answer: Any) -> Any:
        """Return what a script that needs the lease answered. Raises Fenced where that is None."""
        if answer is None:
            raise Fenced(f"the lease on {self.worker_id} is another's")
        return answer


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of a lease. ``is_ours``: it was renewed; else it is another's now.

    ``is_in_order``: the ranks of jobs are of the order that was stored when the lease was
    acquired. Else another one was adopted: what was claimed before has ranks that compare
    with nothing that is claimed now.
    """

    is_ours: bool
    is_in_order: bool


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker that a lane drives now; ``info`` is what its lane told about it.

    ``step_us``: how long a step takes there; 0 while that is not known. ``num_used_blocks``: KV
    blocks that sequences held there at the last renewal.
    """

    worker_id: str
    holder: str
    epoch: int
    expires_s: float
    info: Mapping[str, str]
    step_us: int = 0
    num_used_blocks: int = 0

    @property
    def num_blocks(self) -> int:
        """KV blocks of the worker; 0 where its lane did not tell."""
        return int(self.info.get("num_blocks", 0))

    @property
    def block_size(self) -> int:
        """Tokens in each; 0 where its lane did not tell."""
        return int(self.info.get("block_size", 0))
