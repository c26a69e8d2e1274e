"""Where each step writes in the cache, and blocks that nobody may read or write."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from worker_svc.core.residents import StepPlan
from worker_svc.runner import Runner
from worker_svc.step.pending import Pending

# A block and an offset in it.
Slot = tuple[int, int]


class WatchedCache:
    """Watches every step that a runner launches from now on.

    Attributes:
        written: by step, the slots whose key or value changed in any layer.
    """

    def __init__(self, runner: Runner) -> None:
        self.written: dict[int, set[Slot]] = {}
        self._blocks = runner.executor.cache._blocks
        self._launch = runner.launch
        runner.launch = self._watched  # type: ignore[method-assign]

    def poison(self, block_ids: Iterable[int]) -> None:
        """Whoever reads these before writing them chooses nothing that is finite."""
        self._blocks[:, :, list(block_ids)] = torch.nan

    def blocks_written(self, step: int) -> set[int]:
        """The blocks in which a step wrote."""
        return {block_id for block_id, _ in self.written[step]}

    def _watched(self, plan: StepPlan) -> Pending:
        bits = self._blocks.view(torch.int64)
        before = bits.clone()
        pending = self._launch(plan)
        changed = (bits != before).any(dim=5).any(dim=3).any(dim=1).any(dim=0)
        self.written[plan.command.step] = {
            (block_id, offset) for block_id, offset in changed.nonzero().tolist()
        }
        return pending
