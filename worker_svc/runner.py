"""One step: a command in, a report out. Plan, apply, compute, advance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvstore.cache import KVCache
from protos.step import (
    FinishReason,
    ResidentSequence,
    StepCommand,
    StepReport,
    TokenLogprobs,
)
from worker_svc.layout import Layout
from worker_svc.limits import Limits
from worker_svc.model import Decoder
from worker_svc.resident import Resident, Residents, Row
from worker_svc.rows import RowTable
from worker_svc.step.sampler import Choice, SampledRows, Sampler, StepNeeds
from worker_svc.synthetic import warm_up_steps


@dataclass(slots=True)
class _Outcome:
    """A report in the making; parallel lists as in StepReport."""

    sequence_ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    finished: list[tuple[int, FinishReason]] = field(default_factory=list)
    freed: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    num_positions: int = 0
    num_context: int = 0


class Runner:
    """Owns the rows on the device and the cache; executes steps, one at a time.

    Not thread-safe: one thread executes. What it is commanded twice, it does twice; the
    ledger before it sees to that.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, limits: Limits, layout: Layout) -> None:
        self._decoder = decoder
        self._cache = cache
        self._limits = limits
        self._layout = layout
        self._residents = Residents(limits)
        self._table = RowTable(limits, decoder.device)
        self._sampler = Sampler(self._table, decoder.kernels)

    def residents(self) -> tuple[ResidentSequence, ...]:
        """Every sequence that lives here."""
        return self._residents.describe()

    def reset(self) -> None:
        """Let go of every sequence."""
        self._residents.clear()

    @torch.inference_mode()
    def execute(self, command: StepCommand) -> StepReport:
        """Execute one step and wait for its result.

        Raises:
            StepRefused: the command cannot be done; nothing was changed.
        """
        started_ns = time.perf_counter_ns()
        plan = self._residents.plan(command)
        self._residents.apply(plan, command.committed_step)
        for resident in plan.admitted:
            self._table.admit(resident)
        self._table.grow(plan.rows)
        outcome = _Outcome()
        outcome.freed += [(r.sequence_id, tuple(r.block_ids)) for r in plan.released]
        outcome.freed += plan.strays
        if plan.rows:
            self._compute(plan.rows, command.step, outcome)
        return StepReport(
            incarnation=command.incarnation,
            epoch=command.epoch,
            step=command.step,
            token_sequence_ids=tuple(outcome.sequence_ids),
            token_offsets=tuple(outcome.offsets),
            token_ids=tuple(outcome.token_ids),
            logprobs=outcome.logprobs,
            finished=tuple(outcome.finished),
            freed=tuple(outcome.freed),
            duration_us=(time.perf_counter_ns() - started_ns) // 1000,
            num_positions=outcome.num_positions,
            num_context=outcome.num_context,
        )

    def _compute(self, rows: Sequence[Row], step: int, outcome: _Outcome) -> None:
        batch = self._layout.lay(rows, self._table, self._residents.num_dead)
        outcome.num_positions, outcome.num_context = batch.num_positions, batch.num_context
        logits = self._decoder.forward(batch, self._cache)
        for row in rows:
            row.resident.num_computed += row.num_tokens
        complete = [row.resident for row in rows if row.resident.num_pending == 0]
        if not complete:
            return
        choice = self._choose(logits[: len(complete)], complete)
        logprobs = _told(choice, complete)
        chosen = zip(choice.token_ids.tolist(), choice.is_finite.tolist(), strict=True)
        for position, (resident, (token_id, is_finite)) in enumerate(
            zip(complete, chosen, strict=True)
        ):
            reason: FinishReason | None = FinishReason.ERROR
            if is_finite:
                reason = _advance(resident, token_id, logprobs.get(position), outcome)
            if reason is not None:
                self._residents.end(resident, step)
                outcome.finished.append((resident.sequence_id, reason))
                outcome.freed.append((resident.sequence_id, tuple(resident.block_ids)))

    def _choose(self, logits: Tensor, residents: Sequence[Resident]) -> Choice:
        lines, positions = self._table.pack(
            [[resident.line for resident in residents], [r.num_tokens for r in residents]]
        )
        sampled = SampledRows(lines, positions)
        choice = self._sampler.choose(logits, sampled, StepNeeds.of(residents))
        self._sampler.advance(choice, sampled)
        return choice

    def warm_up(self) -> None:
        """Execute steps of every kind, so that no job waits for a compiler or finds it broken."""
        for command in warm_up_steps(self._limits):
            self.execute(command)
            self.reset()


def _told(choice: Choice, residents: Sequence[Resident]) -> dict[int, TokenLogprobs]:
    """The log-probabilities, by position in the residents, of those who asked."""
    if choice.logprobs is None:
        return {}
    rows = zip(*(part.tolist() for part in choice.logprobs), strict=True)
    asked = [resident.sampling.num_logprobs for resident in residents]
    return {
        at: TokenLogprobs(logprob, tuple(zip(ids[:count], top[:count], strict=True)))
        for at, (count, (logprob, ids, top)) in enumerate(zip(asked, rows, strict=True))
        if count >= 0
    }


def _advance(
    resident: Resident, token_id: int, logprobs: TokenLogprobs | None, outcome: _Outcome
) -> FinishReason | None:
    """Take the chosen token as the sequence's next; return why that ends it, if it does."""
    if logprobs is not None:
        outcome.logprobs[len(outcome.token_ids)] = logprobs
    outcome.sequence_ids.append(resident.sequence_id)
    outcome.offsets.append(resident.num_output_tokens)
    outcome.token_ids.append(token_id)
    resident.num_tokens += 1
    if token_id in resident.stop_token_ids:
        return FinishReason.STOP
    if resident.num_tokens >= resident.max_tokens:
        return FinishReason.LENGTH
    return None
