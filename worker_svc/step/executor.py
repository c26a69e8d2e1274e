"""Steps on the device: launched one behind the other, waited for when tokens are wanted."""

from __future__ import annotations

import torch
from torch import Tensor

from kvstore.cache import KVCache
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row, StepPlan
from worker_svc.model.model import Model
from worker_svc.step.graphs import GraphedSteps
from worker_svc.step.layout import Layout
from worker_svc.step.link import Alone, Link
from worker_svc.step.pending import Launched, Pending
from worker_svc.step.rows import RowTable
from worker_svc.step.sampler import SampledRows, Sampler, StepNeeds
from worker_svc.step.staging import pack
from worker_svc.step.timer import start_timer


class Executor:
    """Owns the rows on the device and the cache. One thread launches.

    Nothing between ``launch`` and ``Pending.wait`` reads back from the device. A step may be
    launched before the one before it is waited for: the chosen tokens, and which sequences have
    ended, lie in the table on the device, and steps are computed in the order of their launches.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        limits: Limits,
        layout: Layout,
        link: Link | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.table = RowTable(limits, model.device, model.kernels)
        self._layout = layout
        self._link = link or Alone(model)
        self._sampler = Sampler(self.table, model.kernels)
        self.graphs: GraphedSteps | None = None

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute a step."""
        for choice, chosen in self._link.catch_up(plan):
            self._sampler.advance(choice, chosen)
        timer = start_timer(self.model.device)
        self.table.write(plan.admitted, plan.rows)
        if not plan.rows:
            timer.stop()
            return Pending(timer)
        hidden, num_positions, num_context = self._forward(plan)
        pending = Pending(timer, num_positions, num_context)
        if self.model.part.is_last and (sampled := plan.sampled):
            self._sample(hidden, sampled, pending)
        timer.stop()
        return self._link.pass_on(plan, hidden, pending)

    def _forward(self, plan: StepPlan) -> tuple[Tensor, int, int]:
        """``[>= S, H]``, what is sampled first; positions computed, key positions attended to.

        Of a stage that is not the last all positions' states.
        """
        receive = self._link.receive
        if self.graphs is not None:
            return self.graphs.forward(plan.rows, receive)
        batch = self._layout.make_batch(plan.rows, self.table, plan.num_dead)
        hidden = self.model.forward(batch, self.cache, receive(batch.num_positions))
        return hidden, batch.num_positions, batch.num_context

    def _sample(self, hidden: Tensor, rows: list[Row], pending: Pending) -> None:
        """Choose the rows' tokens, write them behind their last ones, and mark who has ended."""
        row_ids, positions = pack(
            ([row.resident.row_id for row in rows], [row.position for row in rows]),
            self.table.device,
        )
        sampled = SampledRows(row_ids, positions)
        needs = StepNeeds.of([row.resident for row in rows])
        logits = self.model.logits(hidden)[: len(rows)]
        choice = self._sampler.choose(logits, sampled, needs)
        self._sampler.advance(choice, sampled)
        pending.bring(choice, rows)
