"""Mistakes that could be made with the steps of a pipeline: who is in which."""

from __future__ import annotations

from tests.scheduler_svc.core.mutations import CONFIG, MICRO_BATCHES, PLANNER, SCHEDULER, Mutant

PIPELINE_MUTANTS = (
    Mutant(
        "it is named again while a stage has it",
        MICRO_BATCHES,
        "if num_ago >= num_stages:",
        "if num_ago >= num_stages - 1:",
    ),
    Mutant(
        "its turn comes a step late",
        MICRO_BATCHES,
        "if num_ago >= num_stages:",
        "if num_ago > num_stages:",
    ),
    Mutant(
        "shares are uneven",
        MICRO_BATCHES,
        "        level = min(level, -(-total // num_filled))\n",
        "        level = level\n",
    ),
    Mutant(
        "a share leaves something over",
        MICRO_BATCHES,
        "-(-total // num_filled)",
        "total // num_filled",
    ),
    Mutant("who was passed over comes last", MICRO_BATCHES, "ready.sort(key=_last_step)", "pass"),
    Mutant(
        "a micro-batch is opened for each",
        MICRO_BATCHES,
        "-(-num_all // self._target)",
        "num_all",
    ),
    Mutant(
        "there is one micro-batch",
        MICRO_BATCHES,
        "num_missing = num_wanted - len(others) - 1",
        "num_missing = -len(others)",
    ),
    Mutant(
        "newcomers join the next one",
        MICRO_BATCHES,
        "even_share(len(ready) + num_newcomers, others) - num_rows",
        "num_newcomers",
    ),
    Mutant(
        "prompts are not spread",
        MICRO_BATCHES,
        "self.num_micro_batches**2",
        "1",
    ),
    Mutant(
        "prompts of newcomers do not count",
        MICRO_BATCHES,
        "        num_pending += sum(s.num_tokens for s in self._roster.waiting[:num_newcomers])\n",
        "",
    ),
    Mutant(
        "a share is no limit",
        PLANNER,
        "            if not num_left:\n                break\n",
        "",
    ),
    Mutant(
        "who waits for a block takes another's share",
        PLANNER,
        "                if not self._pool.num_free:\n                    continue\n",
        "                if not self._pool.num_free:\n"
        "                    num_left -= 1\n"
        "                    continue\n",
    ),
    Mutant("who comes in is not counted", PLANNER, "builder.num_newcomers -= 1", "pass"),
    Mutant("nobody waits for a step's number", SCHEDULER, " and not builder.num_held", ""),
    Mutant(
        "the target knows no places",
        CONFIG,
        "min(DEFAULT_TARGET, -(-self.num_places // self.num_stages))",
        "DEFAULT_TARGET",
    ),
)
