"""Mistakes that could be made where a worker changes hands."""

from __future__ import annotations

from tests.scheduler_svc.core.mutations import FLIGHT, ROSTER, SCHEDULER, SEQUENCE, Mutant

ADOPTION = "scheduler_svc/core/adoption.py"
INHERITANCE = "scheduler_svc/core/inheritance.py"

ADOPTION_MUTANTS = (
    Mutant(
        "whoever the worker holds goes on",
        ADOPTION,
        "return output.num_prompt_tokens + self._next[key] == held.num_tokens",
        "return True",
    ),
    Mutant(
        "kept reports do not count",
        ADOPTION,
        "output.num_prompt_tokens + self._next[key] ==",
        "output.num_tokens ==",
    ),
    Mutant(
        "tokens of the log come again",
        ADOPTION,
        "self._lengths[key] <= offset < self",
        "offset < self",
    ),
    Mutant(
        "of two tokens the first counts",
        ADOPTION,
        "self._next[key] = max(length, offset + 1)",
        "self._next[key] = max(self._next[key], offset + 1)",
    ),
    Mutant("a missing token is not missed", ADOPTION, "self._torn.add(key)", "pass"),
    Mutant("what a report frees is freed again", ADOPTION, "            freed=(),\n", ""),
    Mutant("more go on than there are places", ADOPTION, "fitting[: config.num_places]", "fitting"),
    Mutant("the last in order go on", ADOPTION, "key=lambda item: item[0])", "reverse=True)"),
    Mutant(
        "who left is forgotten",
        ADOPTION,
        "if key not in residents and replay.brings(key)]",
        "if False]",
    ),
    Mutant("an end without a token is forgotten", ADOPTION, "key in self._ended or self", "self"),
    Mutant(
        "log-probabilities keep their places",
        ADOPTION,
        "logprobs={i: logprobs",
        "logprobs={at: logprobs",
    ),
    Mutant(
        "a first sequence's tokens go to nobody",
        ADOPTION,
        "rows.append((position, chosen[key], offset))",
        "rows.append((position, sequence_id, offset))",
    ),
    Mutant(
        "strangers stay", INHERITANCE, "roster.dismiss(_stranger(held), held, last_step)", "pass"
    ),
    Mutant("ids are used again", INHERITANCE, "roster.skip_ids(event.last_id)", "pass"),
    Mutant(
        "blocks of strangers are free",
        INHERITANCE,
        "for held in (*event.kept, *event.released)])",
        "for held in event.kept])",
    ),
    Mutant("full outputs wait", INHERITANCE, "elif sequence.is_full:", "elif False:"),
    Mutant(
        "kept reports are committed already",
        FLIGHT,
        "self.reported = self.committed = self.planned - num_reports",
        "self.reported = self.planned - num_reports",
    ),
    Mutant(
        "what was computed is computed again",
        SEQUENCE,
        "self.num_tokens, self.num_computed = held.num_tokens, held.num_computed",
        "self.num_tokens = held.num_tokens",
    ),
    Mutant(
        "who left the worker runs",
        ROSTER,
        "        self._departing[left.sequence_id] = sequence\n",
        "        self.running[left.sequence_id] = sequence\n",
    ),
    Mutant(
        "what was adopted is found by nobody",
        SCHEDULER,
        "[(s, s.num_computed // size) for s in running]",
        "[]",
    ),
    Mutant(
        "a block is found before it is full",
        SCHEDULER,
        "(s, s.num_computed // size) for s",
        "(s, -(-s.num_computed // size)) for s",
    ),
)
