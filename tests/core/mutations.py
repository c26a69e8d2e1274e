"""Mistakes that could be made in the core, each one replacement in one file."""

from __future__ import annotations

from dataclasses import dataclass

POOL = "kvstore/pool.py"
CONFIG = "scheduler_svc/core/config.py"
FLIGHT = "scheduler_svc/core/flight.py"
INTAKE = "scheduler_svc/core/intake.py"
OUTCOME = "scheduler_svc/core/outcome.py"
PLANNER = "scheduler_svc/core/planner.py"
POLICY = "scheduler_svc/core/policy.py"
ROSTER = "scheduler_svc/core/roster.py"
SCHEDULER = "scheduler_svc/core/scheduler.py"
SEQUENCE = "scheduler_svc/core/sequence.py"


@dataclass(frozen=True)
class Mutant:
    """``old`` occurs exactly once in ``path``; with ``new`` in its place a test must fail."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
    Mutant("a double free goes through", POOL, "if count == 0:", "if False:"),
    Mutant("allocated blocks stay free", POOL, "del self._free[rest:]", "pass"),
    Mutant("a shared block is freed at once", POOL, "            if count:", "            if 0:"),
    Mutant("one block too many is given", POOL, "if rest < 0:", "if rest < -1:"),
    Mutant(
        "more run than can decode in a step",
        CONFIG,
        "min(self.max_batch_size, self.max_step_tokens)",
        "self.max_batch_size",
    ),
    Mutant(
        "one step more in flight",
        FLIGHT,
        "self.num_in_flight < self._config",
        "self.num_in_flight <= self._config",
    ),
    Mutant(
        "the worker must keep a report too many",
        FLIGHT,
        "self.planned - self.committed < self",
        "self.planned - self.committed <= self",
    ),
    Mutant("a repeated report is an error", FLIGHT, "<= self.reported:", "< self.reported:"),
    Mutant("a report may skip a step", FLIGHT, "step != self.reported + 1 or ", ""),
    Mutant("committed goes back", FLIGHT, "max(self.committed, step)", "min(self.reported, step)"),
    Mutant("steps stay in flight after the loss", FLIGHT, "self.reported = self.planned", "pass"),
    Mutant("the context is no limit", INTAKE, "sampling.max_tokens, max_context)", "10**6, 10**6)"),
    Mutant("the output it has is forgotten", INTAKE, ", *log.token_ids]", "]"),
    Mutant("ended outputs run again", INTAKE, ".finish is None", ".index >= 0"),
    Mutant(
        "tokens after the end are kept",
        OUTCOME,
        "        if sequence.state is State.ENDED:\n            continue\n",
        "",
    ),
    Mutant(
        "tokens of the preempted are dropped",
        OUTCOME,
        "if sequence.state is State.ENDED:",
        "if sequence.state is not State.RUNNING:",
    ),
    Mutant("any token completes a stop string", OUTCOME, " and hit.offset == offset", ""),
    Mutant(
        "another row's log-probability", OUTCOME, "report.logprobs[position]", "report.logprobs[0]"
    ),
    Mutant("log-probabilities of 0 are none", OUTCOME, "num_logprobs >= 0", "num_logprobs > 0"),
    Mutant("offsets are not compared", OUTCOME, "if offset != len", "if offset < -len"),
    Mutant(
        "a stop string does not end it",
        OUTCOME,
        "    if hit is not None and",
        "    if hit is not None and reason and",
    ),
    Mutant(
        "an end without a token is lost",
        OUTCOME,
        "            rows.append(end_row(sequence, reason))\n",
        "",
    ),
    Mutant("planning forgets the token to come", PLANNER, "sequence.num_tokens += 1", "pass"),
    Mutant(
        "a row is not remembered as its last", PLANNER, "last_step = self.step", "last_step = 0"
    ),
    Mutant(
        "decodes go on past the last token",
        PLANNER,
        "elif num_tokens >= sequence.max_length:",
        "elif num_tokens > sequence.max_length:",
    ),
    Mutant("a decode takes a block there is not", PLANNER, "elif self._pool.num_free:", "else:"),
    Mutant(
        "a block comes one token late",
        PLANNER,
        "elif num_tokens <= len",
        "elif num_tokens <= 1 + len",
    ),
    Mutant("nobody makes room", PLANNER, "while wanted > self", "while wanted < 0 * self"),
    Mutant(
        "room is made before it is needed", PLANNER, "while wanted > self", "while wanted >= self"
    ),
    Mutant(
        "chunks break the budget",
        PLANNER,
        "min(sequence.num_pending, draft.budget), 0)",
        "sequence.num_pending, 0)",
    ),
    Mutant(
        "a prompt is let in and computed at once",
        PLANNER,
        "min(sequence.num_pending, draft.budget), wanted)",
        "sequence.num_pending, wanted)",
    ),
    Mutant("no block is left to grow by", PLANNER, "wanted + len(running) >", "wanted >"),
    Mutant(
        "one place too many", PLANNER, "len(running) < self._config", "len(running) <= self._config"
    ),
    Mutant("releases alone are not sent", PLANNER, " and not release_ids", ""),
    Mutant("who came first gives way", POLICY, "max(running", "min(running"),
    Mutant("who came last is next", POLICY, "min(waiting", "max(waiting"),
    Mutant("an id is used again", ROSTER, "self._last_id + 1", "max(self.running, default=0) + 1"),
    Mutant(
        "what the worker ended is released too",
        ROSTER,
        "self._leaving.pop(sequence_id",
        "self._leaving.get(sequence_id",
    ),
    Mutant("a release is sent again and again", ROSTER, "        self._leaving.clear()\n", ""),
    Mutant("a release does not delay the return", ROSTER, "sequence.last_step = step", "pass"),
    Mutant("it returns while a step still names it", ROSTER, "if s.last_step <= reported", ""),
    Mutant("its progress survives preemption", ROSTER, "sequence.rewind()", "pass"),
    Mutant("what it kept is not asked for", ROSTER, "if sequence.block_ids:", "if False:"),
    Mutant("the ended stay live", ROSTER, "        del self.live[sequence.key]\n", ""),
    Mutant(
        "jobs beyond the claim are taken", SCHEDULER, "if len(event.jobs) > self", "if 0 > self"
    ),
    Mutant(
        "a claim is out twice",
        SCHEDULER,
        "num_free <= 0 or self._num_claiming or",
        "num_free <= 0 or",
    ),
    Mutant("the lost claim on", SCHEDULER, " or self._is_lost:", ":"),
    Mutant("the lost keep what they claimed", SCHEDULER, "self._is_lost = True", "pass"),
    Mutant(
        "another incarnation's report counts",
        SCHEDULER,
        "report.incarnation != self._config.incarnation or ",
        "",
    ),
    Mutant(
        "waiting jobs take no place",
        SCHEDULER,
        "num_places - len(self._roster.live)",
        "num_places - self.num_running",
    ),
    Mutant("a job is requeued once an output", SCHEDULER, "dict.fromkeys(job_ids)", "job_ids"),
    Mutant("a full output is computed further", SCHEDULER, "if sequence.is_full:", "if False:"),
    Mutant(
        "a job that is here starts again",
        SCHEDULER,
        "elif sequence.key not in self._roster.live:",
        "else:",
    ),
    Mutant(
        "an early end bears a step to come",
        SCHEDULER,
        "Commit(self._flight.reported, tuple",
        "Commit(self._flight.planned, tuple",
    ),
    Mutant("freed blocks stay held", SCHEDULER, "            self._pool.release(block_ids)\n", ""),
    Mutant(
        "the lost keep their blocks",
        SCHEDULER,
        "self._pool.release(self._roster.forget())",
        "self._roster.forget()",
    ),
    Mutant(
        "outputs that ended in Redis go on", SCHEDULER, "for key in event.ended:", "for key in ():"
    ),
    Mutant(
        "any job is cancelled",
        SCHEDULER,
        "if sequence.spec.job_id in event.job_ids:",
        "if event.job_ids:",
    ),
    Mutant(
        "the preempted cannot end",
        SEQUENCE,
        "{Move.END: State.ENDED, Move.RETURN: State.WAITING}",
        "{Move.RETURN: State.WAITING}",
    ),
    Mutant(
        "the last token wants a block",
        SEQUENCE,
        "min(self.num_tokens, self.max_length - 1)",
        "self.num_tokens",
    ),
    Mutant(
        "blocks of others are given back",
        SEQUENCE,
        "if len(kept) + len(returned) != len(self.block_ids):",
        "if False:",
    ),
    Mutant(
        "what was computed counts after a return",
        SEQUENCE,
        "self.sequence_id = self.num_computed = self",
        "self.sequence_id = self",
    ),
    Mutant(
        "an admission's prompt includes the output",
        SEQUENCE,
        "num_prompt_tokens=self.num_prompt_tokens",
        "num_prompt_tokens=len(self.token_ids)",
    ),
)
