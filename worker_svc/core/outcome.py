"""What a step came to: the device's choices become a report, and the residents follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import FinishReason, StepReport, TokenLogprobs
from worker_svc.core.residents import Residents, Row, StepPlan


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the device decided for the S rows of a plan that are sampled, in their order.

    Attributes:
        token_ids: S tokens.
        is_finite: S flags; where false the logits were not, and the token means nothing.
        logprobs: by position in S, where asked for.
        scores: of the plan's scored rows, in their order.
        duration_us: how long the device was busy with the step.
        num_positions: token positions that went through the layers, padding included.
        num_context: key positions that attention read in each layer, padding included.
    """

    token_ids: Sequence[int] = ()
    is_finite: Sequence[bool] = ()
    logprobs: Mapping[int, TokenLogprobs] = field(default_factory=dict)
    scores: Sequence[PromptLogprobs] = ()
    duration_us: int = 0
    num_positions: int = 0
    num_context: int = 0


@dataclass(slots=True)
class _Found:
    """What a report will say; parallel lists as in StepReport."""

    sequence_ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    finished: list[tuple[int, FinishReason]] = field(default_factory=list)
    freed: list[tuple[int, Sequence[int]]] = field(default_factory=list)


def absorb(residents: Residents, plan: StepPlan, chosen: Chosen) -> StepReport:
    """Settle a planned step; steps are settled in the order in which they were planned.

    Rows of sequences that an earlier step ended come to nothing: only the blocks that were named
    for them return.
    """
    found, command = _Found(), plan.command
    found.freed += [
        (resident.sequence_id, tuple(resident.block_ids))
        for resident in plan.released
        if not resident.has_ended
    ]
    found.freed += plan.strays
    found.freed += [
        (row.resident.sequence_id, row.new_block_ids)
        for row in plan.rows
        if row.resident.has_ended and row.new_block_ids
    ]
    for row, scores in zip(plan.scored, chosen.scores, strict=True):
        if row.resident.scores is not None:
            row.resident.scores.append(scores)
    for position, row in enumerate(plan.sampled):
        if row.resident.has_ended:
            continue
        reason = _advance(row, position, chosen, found)
        if reason is not None:
            found.finished.append((row.resident.sequence_id, reason))
            freed = residents.end(row, command.step)
            found.freed.append((row.resident.sequence_id, freed))
    return StepReport(
        incarnation=command.incarnation,
        epoch=command.epoch,
        step=command.step,
        token_sequence_ids=tuple(found.sequence_ids),
        token_offsets=tuple(found.offsets),
        token_ids=tuple(found.token_ids),
        logprobs=found.logprobs,
        finished=tuple(found.finished),
        freed=tuple(found.freed),
        duration_us=chosen.duration_us,
        num_positions=chosen.num_positions,
        num_context=chosen.num_context,
    )


def _advance(row: Row, position: int, chosen: Chosen, found: _Found) -> FinishReason | None:
    """Take the chosen token as the sequence's next; return why that ends it, if it does."""
    token_id, resident = chosen.token_ids[position], row.resident
    scores, resident.scores = resident.scores, None
    if not chosen.is_finite[position] or not all(each.is_finite for each in scores or ()):
        return FinishReason.ERROR
    admission, offset = resident.admission, row.position
    if chosen.logprobs and (logprobs := chosen.logprobs.get(position)) is not None:
        if scores is not None:
            logprobs = replace(logprobs, prompt=PromptLogprobs.joined(scores))
        found.logprobs[len(found.token_ids)] = logprobs
    found.sequence_ids.append(admission.sequence_id)
    found.offsets.append(offset - admission.num_prompt_tokens)
    found.token_ids.append(token_id)
    if token_id in resident.stop_token_ids:
        return FinishReason.STOP
    if offset + 1 >= resident.max_tokens:
        return FinishReason.LENGTH
    return None
