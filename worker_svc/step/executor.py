"""Steps on the device: launched one behind the other, waited for when tokens are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import torch

from kvstore.cache import KVCache
from worker_svc.core.limits import Limits
from worker_svc.core.residents import Row, StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.model.model import Model
from worker_svc.step.graphs import Computed, GraphedSteps
from worker_svc.step.layout import Layout
from worker_svc.step.link import Alone, Link
from worker_svc.step.masks import Made, Masks
from worker_svc.step.pending import NO_CHOICE, Pending
from worker_svc.step.rows import RowTable
from worker_svc.step.sampler import Choice, Sampler, StepNeeds
from worker_svc.step.scores import score, split_scored
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
        self.sampler = Sampler(self.table, model.kernels)
        self.masks = Masks(limits, model.device, model.dtype)
        self.graphs: GraphedSteps | None = None

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute a step."""
        for choice, chosen in self._link.catch_up(plan):
            self.sampler.advance(choice, chosen)
        timer = start_timer(self.model.device)
        self.table.write(plan.admitted, plan.rows)
        is_last = self.model.part.is_last
        sampled, scored = (plan.sampled, plan.scored) if is_last else ([], [])
        masks = self.masks.begin(plan, sampled) if is_last else None
        if not plan.rows:
            timer.stop()
            return Pending(timer)
        computed = self._forward(plan)
        pending = Pending(timer, computed.num_positions, computed.num_context)
        if sampled or scored:
            states, of_prompts = split_scored(computed.hidden, scored)
            computed = computed._replace(hidden=states)
            choice = self._choose(computed, sampled, masks) if sampled else NO_CHOICE
            if scored:
                choice = choice._replace(scores=score(self.model, of_prompts, scored))
            pending.bring(choice, sampled, scored)
            self.masks.follow(sampled, pending)
        timer.stop()
        return self._link.pass_on(plan, computed.hidden, pending)

    def _forward(self, plan: StepPlan) -> Computed:
        """Of a stage that is not the last the states are those of all positions."""
        receive = self._link.receive
        if self.graphs is not None:
            return self.graphs.forward(plan.rows, receive)
        batch, sampled = self._layout.make_batch(plan.rows, self.table, plan.num_dead)
        hidden = self.model.forward(batch, self.cache, receive(batch.num_positions))
        return Computed(hidden, sampled, batch.num_positions, batch.num_context)

    def _choose(
        self, computed: Computed, rows: Sequence[Row], masks: Future[Made] | None
    ) -> Choice:
        """Choose the rows' tokens, write them behind their last ones, and mark who has ended.

        Masks are waited for once all that comes before the choice is launched.
        """
        needs = StepNeeds.of([row.resident for row in rows])
        for able, choose in computed.choosers.items():
            if masks is None and able.covers(needs):
                return choose()
        logits = self.model.logits(computed.hidden)[: len(rows)]
        if masks is not None:
            self.model.kernels.restrict(logits, self.masks.on_device(masks))
        choice = self.sampler.choose(logits, computed.sampled, needs)
        self.sampler.advance(choice, computed.sampled)
        return choice
