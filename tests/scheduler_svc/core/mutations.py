"""Mistakes that could be made in the core, each one replacement in one file."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = "scheduler_svc/core/budget.py"
CLAIMS = "scheduler_svc/core/claims.py"
CONFIG = "scheduler_svc/core/config.py"
BUILDER = "scheduler_svc/core/step_builder.py"
FLIGHT = "scheduler_svc/core/flight.py"
INTAKE = "scheduler_svc/core/intake.py"
LENGTHS = "scheduler_svc/core/lengths.py"
MICRO_BATCHES = "scheduler_svc/core/micro_batches.py"
OUTCOME = "scheduler_svc/core/outcome.py"
PLANNER = "scheduler_svc/core/planner.py"
PUNCTUALITY = "scheduler_svc/core/punctuality.py"
GROWTH = "scheduler_svc/core/growth.py"
ROSTER = "scheduler_svc/core/roster.py"
SCHEDULER = "scheduler_svc/core/scheduler.py"
SEQUENCE = "scheduler_svc/core/sequence.py"
STEP_TIME = "scheduler_svc/core/step_time.py"
VICTIM = "scheduler_svc/core/victim.py"


@dataclass(frozen=True)
class Mutant:
    """``old`` occurs exactly once in ``path``; with ``new`` instead a test must fail."""

    name: str
    path: str
    old: str
    new: str


MUTANTS = (
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
        "            if sequence.state is has_ended:\n                continue\n",
        "",
    ),
    Mutant(
        "tokens of the preempted are dropped",
        OUTCOME,
        "if sequence.state is has_ended:",
        "if sequence.state is not State.RUNNING:",
    ),
    Mutant("any token completes a stop string", OUTCOME, " and hit.offset == offset", ""),
    Mutant(
        "another row's log-probability", OUTCOME, "report.logprobs[position]", "report.logprobs[0]"
    ),
    Mutant("log-probabilities of 0 are none", SEQUENCE, "g.logprobs >= 0", "g.logprobs > 0"),
    Mutant("a scored prompt's beginning is taken", PLANNER, " or sequence.scores_prompt", ""),
    Mutant("who has output is scored again", SEQUENCE, " and not self.num_outputs", ""),
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
        "                rows.append(end_row(sequence, finish_of(sequence, reason)))\n",
        "",
    ),
    Mutant("planning forgets the token to come", BUILDER, "sequence.num_tokens += 1", "pass"),
    Mutant(
        "a decode forgets the token to come",
        PLANNER,
        "sequence.num_tokens = num_tokens + 1",
        "sequence.num_tokens = num_tokens",
    ),
    Mutant(
        "a row is not remembered as its last", BUILDER, "last_step = self.step", "last_step = 0"
    ),
    Mutant("a decode is not its last row", PLANNER, "sequence.last_step = step", "pass"),
    Mutant(
        "decodes go on past the last token",
        MICRO_BATCHES,
        "if num_tokens >= sequence.max_length:",
        "if num_tokens > sequence.max_length:",
    ),
    Mutant(
        "a decode takes a block there is not", PLANNER, "if not self._pool.num_free:", "if False:"
    ),
    Mutant(
        "a block comes one token late",
        PLANNER,
        "if num_tokens > len(sequence.block_ids)",
        "if num_tokens > 1 + len(sequence.block_ids)",
    ),
    Mutant("nobody makes room", PLANNER, "self._num_wanted() > self", "0 > self"),
    Mutant(
        "room is made before it is needed",
        PLANNER,
        "self._num_wanted() > self",
        "1 + self._num_wanted() > self",
    ),
    Mutant(
        "the first prompt keeps nothing",
        PLANNER,
        "        builder.budget -= kept\n",
        "        kept = 0\n",
    ),
    Mutant(
        "the urgent displace in a static batch",
        PLANNER,
        ' or self._config.batching == "static":\n            return',
        ":\n            return",
    ),
    Mutant(
        "a static batch is never complete",
        PLANNER,
        "            return min(self._num_left, len(roster.waiting))\n",
        "",
    ),
    Mutant("who passes the gate is not counted", PLANNER, "self._num_left -= 1", "pass"),
    Mutant(
        "idle blocks cost nothing",
        PLANNER,
        "return wanted + self._pool.num_idle(cached)",
        "return wanted",
    ),
    Mutant(
        "the last token may be cached",
        PLANNER,
        "sequence.keys_of((sequence.num_tokens - 1) // size",
        "sequence.keys_of(sequence.num_tokens // size",
    ),
    Mutant("cached blocks are not shared", PLANNER, "        self._pool.retain(cached)\n", ""),
    Mutant(
        "what is cached is computed again",
        PLANNER,
        "sequence.num_computed = len(cached) * self._config.block_size",
        "sequence.num_computed = 0",
    ),
    Mutant(
        "what was lost is not counted",
        PLANNER,
        "max(0, sequence.num_lost",
        "min(0, sequence.num_lost",
    ),
    Mutant(
        "chunks break the budget",
        PLANNER,
        "builder.add_row(sequence, min(sequence.num_pending, builder.budget), 0)",
        "builder.add_row(sequence, sequence.num_pending, 0)",
    ),
    Mutant(
        "newcomers come last",
        PLANNER,
        "        self._admit(builder)\n        # The first one last",
        "        # The first one last",
    ),
    Mutant(
        "a prompt is let in and computed at once",
        PLANNER,
        "min(sequence.num_pending, builder.budget), wanted)",
        "sequence.num_pending, wanted)",
    ),
    Mutant(
        "no block is left to grow by",
        PLANNER,
        "self._num_wanted_by(sequence, cached) + len(running) > num_free",
        "self._num_wanted_by(sequence, cached) > num_free",
    ),
    Mutant(
        "one place too many",
        PLANNER,
        "return min(max(0, num_places - len(",
        "return min(max(0, num_places + 1 - len(",
    ),
    Mutant("releases alone are not sent", SCHEDULER, " and not release_ids and", " and"),
    Mutant("who came first gives way", VICTIM, "by_order[len(by_order) // 2 :]", "by_order[:1]"),
    Mutant(
        "the dearest gives way",
        VICTIM,
        "return min(candidates, key=_cost)",
        "return max(candidates, key=_cost)",
    ),
    Mutant("who gave way before costs the same", VICTIM, " * (1 + sequence.num_preemptions)", ""),
    Mutant(
        "there is no margin", PLANNER, "s.rank - first.rank > margin", "s.rank - first.rank > 0"
    ),
    Mutant("who can't help gives way", PLANNER, "<= self._num_coming(candidates)", "<= 10**9"),
    Mutant("who did not fit is never looked at again", PLANNER, "return is_less and", "return"),
    Mutant("who came last is next", ROSTER, "self.waiting.pop(0)", "self.waiting.pop()"),
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
    Mutant("jobs beyond the claim are taken", CLAIMS, "if num_jobs > self", "if 0 > self"),
    Mutant(
        "the same is wished again",
        CLAIMS,
        "claim in (self._standing, NO_CLAIM)",
        "claim == NO_CLAIM",
    ),
    Mutant(
        "a full lane asks for anybody",
        CLAIMS,
        "        return Claim(1, max(s.rank for s in roster.running.values()) - margin)\n",
        "        return Claim(1)\n",
    ),
    Mutant(
        "a static batch is not claimed ahead",
        CLAIMS,
        "num_places - len(roster.waiting)",
        "num_places - len(roster.live)",
    ),
    Mutant(
        "blocks are found that the worker skipped",
        SCHEDULER,
        "            if sequence.state is State.ENDED:\n                continue\n",
        "",
    ),
    Mutant("broken blocks are found", SCHEDULER, "if reason is FinishReason.ERROR:", "if False:"),
    Mutant(
        "blocks are found before their report",
        SCHEDULER,
        "builder.planned())",
        'builder.planned())\n        self._index(builder.planned(), StepReport("", 0, 0))',
    ),
    Mutant("a block is found by another's key", SCHEDULER, "keys[position])", "keys[0])"),
    Mutant("nobody is late", PUNCTUALITY, "if left_s <= 0:", "if False:"),
    Mutant("who would be late waits on", PUNCTUALITY, "if needed_s <= left_s:", "if True:"),
    Mutant("a prompt takes no time", PUNCTUALITY, "return prompt_us +", "return"),
    Mutant(
        "the budget has no bounds", BUDGET, "min(max(wanted, self._least), self._most)", "wanted"
    ),
    Mutant(
        "a token costs nothing", STEP_TIME, "(duration_us - fixed_us) / token_us", "duration_us"
    ),
    Mutant(
        "no part is fixed", STEP_TIME, "return (fixed_us, token_us) if fixed_us > 0 else", "return"
    ),
    Mutant("no measurement fades", STEP_TIME, "MEMORY = 0.95", "MEMORY = 0.0"),
    Mutant("nothing is foreseen", GROWTH, "return _peak_blocks(futures, size) <=", "return 0 <="),
    Mutant("the end of one is the end of all", GROWTH, "reversed(futures)", "futures"),
    Mutant("newcomers are not foreseen", GROWTH, "        self._held += future[1]\n", ""),
    Mutant("shared blocks count for each", GROWTH, " - num_shared * size", ""),
    Mutant(
        "all grow to their limits", GROWTH, "if not self._config.enable_preemption:", "if True:"
    ),
    Mutant(
        "nobody grows to the limit", GROWTH, "if not self._config.enable_preemption:", "if False:"
    ),
    Mutant("few samples are enough", LENGTHS, "num_samples >= MIN_SAMPLES", "num_samples >= 1"),
    Mutant("tenants are alike", LENGTHS, "self._tenants.get(tenant, self._all)", "self._all"),
    Mutant("tenants are never forgotten", LENGTHS, "len(self._tenants) > MAX_TENANTS", "False"),
    Mutant(
        "what is longer counts for nothing",
        LENGTHS,
        "count = counts[bucket + 1] + longer",
        "count = counts[-1] + longer",
    ),
    Mutant("every draw is the shortest", LENGTHS, "shorter = quantile *", "shorter = 0 *"),
    Mutant("lengths never fade", LENGTHS, "self.num_samples >= MAX_SAMPLES", "False"),
    Mutant("the lost claim on", SCHEDULER, "if not self._is_lost and (claim", "if (claim"),
    Mutant("the lost keep what they claimed", SCHEDULER, "self._is_lost = True", "pass"),
    Mutant(
        "another incarnation's report counts",
        SCHEDULER,
        "if report.incarnation != self._config.incarnation:",
        "if False:",
    ),
    Mutant(
        "waiting jobs take no place",
        CLAIMS,
        "num_free = num_places - len(roster.live)",
        "num_free = num_places - len(roster.running)",
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
        "self._punctuality.watch(sequence)\n        return [Commit(self._flight.reported",
        "self._punctuality.watch(sequence)\n        return [Commit(self._flight.planned",
    ),
    Mutant(
        "freed blocks stay held",
        SCHEDULER,
        ".give_back(block_ids)\n            self._pool.release(block_ids)\n",
        ".give_back(block_ids)\n",
    ),
    Mutant(
        "the lost keep their blocks",
        SCHEDULER,
        "for block_ids in self._roster.forget():",
        "for block_ids in self._roster.forget()[1:]:",
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
