"""A stage's neighbours on wires: states go on, choices come back.

Nothing here waits for the device, and nothing for a message but who cannot go on without it.
Shapes are known from the plan, so tensors are sent as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker_svc.core.outcome import Chosen
from worker_svc.core.residents import Resident, Row, StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.group.choices import Choices
from worker_svc.group.place import Place
from worker_svc.group.spans import NOWHERE, Spans
from worker_svc.group.wire import Wires
from worker_svc.kernels.choice import Choice, SampledRows
from worker_svc.model.model import Model
from worker_svc.step.pending import Pending
from worker_svc.step.staging import pack
from worker_svc.step.timer import Timer, start_timer


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A step's choices that the tables on the device do not have yet."""

    rows: list[Row]
    told: Future[tuple[Choice, int]]


class GroupLink:
    """The ``Link`` of one rank, to those with its place in the other stages."""

    def __init__(self, place: Place, wires: Wires, model: Model, spans: Spans = NOWHERE) -> None:
        self._model = model
        self._wires = wires
        self._is_cpu = model.device.type == "cpu"
        self._part = place.part
        self._column = place.column
        self._spans = spans
        # Messages are received, and those that wait for a device told, in the order of the steps.
        self._messenger = ThreadPoolExecutor(1, "choices")
        self._unwritten: deque[_Unwritten] = deque()
        self._owners: dict[int, Resident] = {}
        self._timer: Timer | None = None

    def catch_up(self, plan: StepPlan) -> Iterable[tuple[Choice, SampledRows]]:
        yield from self._written_for({row.resident for row in plan.rows})
        for resident in plan.admitted:
            self._owners[resident.row_id] = resident

    def _written_for(self, wanted: set[Resident]) -> Iterator[tuple[Choice, SampledRows]]:
        """Everything that has come, and up to the last step that chose a token for ``wanted``."""
        needed = [
            any(row.resident in wanted for row in unwritten.rows) for unwritten in self._unwritten
        ]
        num_needed = max((i + 1 for i, is_needed in enumerate(needed) if is_needed), default=0)
        while self._unwritten and (num_needed > 0 or self._unwritten[0].told.done()):
            unwritten = self._unwritten.popleft()
            num_needed -= 1
            choice, _ = unwritten.told.result()
            yield self._on_device(choice, unwritten.rows)

    def _on_device(self, choice: Choice, rows: list[Row]) -> tuple[Choice, SampledRows]:
        """The choices and their places: none for a sequence whose row is another's since."""
        row_ids = [
            row.resident.row_id if self._owners[row.resident.row_id] is row.resident else -1
            for row in rows
        ]
        positions = [row.position for row in rows]
        parts = (choice.token_ids.numpy(), choice.is_finite.numpy(), row_ids, positions)
        token_ids, is_finite, *places = pack(parts, self._model.device)
        return Choice(token_ids, is_finite), SampledRows(*places)

    def receive(self, num_positions: int) -> Tensor | None:
        arrived = None
        if not self._part.is_first:
            model, before = self._model, self._column[self._part.stage - 1]
            shape = (num_positions, model.hidden_size)
            arrived = torch.empty(shape, dtype=model.dtype, device=model.device)
            self._wires.states.receive(arrived, before)
        self._timer = start_timer(self._model.device)
        return arrived

    def pass_on(self, plan: StepPlan, hidden: Tensor, pending: Pending) -> Launched:
        assert self._timer is not None
        self._timer.stop()
        self._spans.add(plan, self._timer)
        form = Choices.of(plan, self._model.vocab_size)
        if self._part.is_last:
            if self._is_cpu:  # it is done
                self._tell(form, pending, self._timer)
                return pending
            told = self._messenger.submit(self._tell, form, pending, self._timer)
            return Told(pending, told)
        # A graph's result is overwritten by the next step.
        self._wires.states.send(hidden.clone(), self._column[self._part.stage + 1])
        heard = self._messenger.submit(self._hear, form)
        self._unwritten.append(_Unwritten(plan.sampled, heard))
        return Awaited(pending, heard, plan, self._part.num_stages - 1)

    def _tell(self, form: Choices, pending: Pending, timer: Timer) -> None:
        """Send what was chosen to all stages before, and how long it took from the states on.

        What it waited for them is their time, and is not to be counted twice.
        """
        duration_us = timer.wait()
        message = form.pack(pending.choice, duration_us)
        for rank in self._column[:-1]:
            self._wires.choices.send(message, rank)

    def _hear(self, form: Choices) -> tuple[Choice, int]:
        message = form.empty()
        self._wires.choices.receive(message, self._column[-1])
        return form.unpack(message)


class Told:
    """A step of the last stage, whose choices another thread tells once they are there."""

    def __init__(self, pending: Pending, told: Future[None]) -> None:
        self._pending, self._told = pending, told

    def is_done(self) -> bool:
        return self._told.done()

    def wait(self) -> Chosen:
        self._told.result()
        return self._pending.wait()


class Awaited:
    """A step that later stages go on with: it is done when the last one has told its choices.

    How long it took is measured in this stage and in the last; those between have as many layers.
    """

    def __init__(
        self,
        pending: Pending,
        told: Future[tuple[Choice, int]],
        plan: StepPlan,
        num_later: int,
    ) -> None:
        self._pending, self._told, self._plan, self._num_later = pending, told, plan, num_later

    def is_done(self) -> bool:
        return self._told.done()

    def wait(self) -> Chosen:
        choice, duration_us = self._told.result()
        self._pending.bring(choice, self._plan.sampled, self._plan.scored)
        chosen = self._pending.wait()
        total_us = chosen.duration_us + self._num_later * duration_us
        return replace(chosen, duration_us=total_us)
