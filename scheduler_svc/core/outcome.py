"""From a step's report to the rows that are committed for it."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler_svc.core.errors import ProtocolError
from scheduler_svc.core.events import StopHit
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.roster import Roster
from scheduler_svc.core.sequence import Sequence, State
from stepserve.protocol.job import CommitRow, Finish
from stepserve.protocol.step import FinishReason, StepReport, TokenLogprobs

FINISHES = {
    FinishReason.STOP: Finish("stop"),
    FinishReason.LENGTH: Finish("length"),
    FinishReason.ERROR: Finish("error", "the model's logits were not finite"),
}


class Outcome:
    """Takes reports: what they say of the sequences goes to the roster, and to Redis as rows."""

    def __init__(self, roster: Roster, lengths: OutputLengths) -> None:
        self._roster = roster
        self._lengths = lengths

    def take(self, report: StepReport, stops: Mapping[int, StopHit]) -> list[CommitRow]:
        """Append the tokens, end what ended, and return the rows for both.

        Tokens of a sequence whose output has ended meanwhile are dropped. Where a stop string
        and the worker end an output together, the stop string is the reason. Raises
        ProtocolError for an unknown sequence or a token that is not the next one.
        """
        residents, has_ended = self._roster.residents, State.ENDED
        ends = dict(report.finished)
        marked = ends.keys() | stops.keys()
        tokens = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
        rows: list[CommitRow] = []
        # Once for each row of each step: what can be had before the loop is.
        for position, (sequence_id, offset, token_id) in enumerate(tokens):
            sequence = residents[sequence_id]
            if sequence.state is has_ended:
                continue
            token_ids = sequence.token_ids
            if offset != len(token_ids) - sequence.num_prompt_tokens:
                raise ProtocolError(f"{sequence.key}: offset {offset}, not {sequence.num_outputs}")
            token_ids.append(token_id)
            job_id, index = sequence.key
            logprobs = (report.logprobs[position],) if sequence.wants_logprobs else ()
            finish = None
            if marked and sequence_id in marked:
                hit = stops.get(sequence_id)
                finish = _finish(sequence, offset, ends.get(sequence_id), hit)
            if logprobs and not offset and _is_unscored(sequence, logprobs[0]):
                finish = UNSCORED
            row = job_id, index, offset, (token_id,), logprobs, finish
            # What CommitRow(*row) does, without a call of its own.
            rows.append(tuple.__new__(CommitRow, row))
            if finish is not None:
                self._end(sequence, finish)
        return rows + self._take_ends(report)

    def _take_ends(self, report: StepReport) -> list[CommitRow]:
        """Nothing is left to release of what the worker ended; some ended without a token."""
        rows = []
        for sequence_id, reason in report.finished:
            sequence = self._roster.residents[sequence_id]
            if sequence.state is not State.ENDED:
                rows.append(end_row(sequence, finish_of(sequence, reason)))
                self._roster.end(sequence)
            self._roster.finished(sequence_id)
        return rows

    def _end(self, sequence: Sequence, finish: Finish) -> None:
        if finish.reason != "error":
            self._lengths.add(sequence.spec.tenant, sequence.num_outputs)
        self._roster.end(sequence)


def end_row(sequence: Sequence, finish: Finish) -> CommitRow:
    """Return the row that ends an output without another token."""
    return CommitRow(*sequence.key, sequence.num_outputs, (), (), finish)


# What may lead to the end of an output that is structured is not told apart.
UNFOLLOWED = Finish(
    "error",
    "what the text has to be left no token to choose: it came to its limits of size, or asks for "
    "what no token can write; or the model's logits were not finite",
)


UNSCORED = Finish(
    "error",
    "the prompt's log-probabilities were asked for, and the worker's version gives none: it has to "
    "be upgraded first",
)


def finish_of(sequence: Sequence, reason: FinishReason) -> Finish:
    """Return how the output ends; where it is shorter than was asked, with what cut it."""
    if reason is FinishReason.ERROR and sequence.sampling.structured_outputs is not None:
        return UNFOLLOWED
    if reason is FinishReason.LENGTH and sequence.is_cut:
        return Finish("length", f"the worker's context of {sequence.max_length} tokens is full")
    return FINISHES[reason]


def _is_unscored(sequence: Sequence, first: TokenLogprobs) -> bool:
    """Whether its first token lacks the prompt's: who does not know of them leaves them out."""
    return sequence.sampling.prompt_logprobs >= 0 and first.prompt is None


def _finish(
    sequence: Sequence, offset: int, reason: FinishReason | None, hit: StopHit | None
) -> Finish | None:
    if hit is not None and hit.offset == offset:
        return (
            Finish("error", hit.error) if hit.error else Finish("stop", text_bytes=hit.text_bytes)
        )
    return None if reason is None else finish_of(sequence, reason)
