"""Everything at once, in any order: the committed logs are the lone runs', exactly once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scheduler_svc.core.config import CoreConfig
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.build import core_config
from tests.scheduler_svc.core.model_queue import Curse
from tests.scheduler_svc.core.world import MAX_FAILURES, World

# A job is computed anew at most so many times by the time that all others have ended.
MAX_ROUNDS = 4
MAX_LOSSES = 2
# Which values are tried depends on what is imported as well (Hypothesis takes constants from
# there), so each run of all tests may find what none has found. It has to be told, then, not
# made small for minutes first: only those that run by hand do that.
QUIET = settings(
    derandomize=True,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def configs(draw: st.DrawFn) -> CoreConfig:
    num_blocks = draw(st.one_of(st.integers(3, 8), st.integers(1, 20)))
    block_size = draw(st.integers(1, 5))
    num_stages = draw(st.sampled_from((1, 2, 3, 4)))
    return core_config(
        first_step=draw(st.integers(1, 3)),
        num_blocks=num_blocks,
        block_size=block_size,
        max_context=min(draw(st.integers(12, 30)), num_blocks * block_size),
        max_batch_size=draw(st.integers(1, 6)),
        max_step_tokens=draw(st.one_of(st.integers(4, 16), st.integers(1, 64))),
        max_steps_in_flight=draw(st.sampled_from((2, 1, 3))) + num_stages - 1,
        max_uncommitted_steps=draw(st.integers(1, 6)),
        batching=draw(st.sampled_from(("continuous", "continuous", "static"))),
        prefix_caching=draw(st.booleans()),
        enable_preemption=draw(st.sampled_from((True, True, False))),
        preemption_margin=draw(st.sampled_from((math.inf, 0.0, 3.0))),
        target_step_us=draw(st.sampled_from((0, 0, 150, 1000))),
        num_stages=num_stages,
        target_batch_size=draw(st.integers(1, 4)),
    )


STAGES = ("planning", "absorbing", "absorbing", "text", "commit", "vetting")
CURSES = st.builds(Curse, st.sampled_from(STAGES), st.sampled_from((0, 0, 1, 3, 8)))
Submitted = tuple[JobSpec, dict[int, int], Curse | None]


@st.composite
def jobs(draw: st.DrawFn) -> Submitted:
    """A job without its id, how many tokens it has of each output, and maybe a curse."""
    logprobs = draw(st.integers(-1, 1))
    sampling = Sampling(
        max_tokens=draw(st.integers(1, 20)),
        seed=draw(st.integers(0, 1000)),
        stop=("7", "11") if draw(st.booleans()) else (),
        stop_token_ids=(0,),
        logprobs=logprobs,
        prompt_logprobs=draw(st.sampled_from((-1, 0))) if logprobs >= 0 else -1,
        n=draw(st.sampled_from((1, 1, 1, 2, 3))),
    )
    # Few beginnings, so that many prompts share one.
    beginning = draw(st.sampled_from(((), (1,) * 9, (1, 2, 3) * 3)))
    prompt = [*beginning, *draw(st.lists(st.integers(1, 15), min_size=1, max_size=6))]
    spec = JobSpec(
        "",
        "model",
        prompt,
        sampling,
        priority=draw(st.integers(-2, 2)),
        tenant=draw(st.sampled_from(("", "a"))),
        arrival_s=float(draw(st.integers(0, 5))),
        deadline_s=draw(st.sampled_from((0.0, 0.0, 7.0))),
    )
    outputs = draw(st.dictionaries(st.integers(0, 2), st.integers(0, 20), max_size=2))
    return spec, outputs, draw(st.one_of(st.none(), st.none(), st.none(), CURSES))


class LaneMachine(RuleBasedStateMachine):
    """Rules are a World's methods; the end of each run lets everything end."""

    world: World
    num_jobs = 0
    num_tokens = 0
    num_losses = 0
    num_takeovers = 0
    num_curses = 0

    @initialize(config=configs(), batch=st.lists(jobs(), max_size=5))
    def start(self, config: CoreConfig, batch: list[Submitted]) -> None:
        self.world = World(config)
        for job in batch:
            self.submit(job)
        self.world.turn()

    @rule(job=jobs())
    def submit(self, job: Submitted) -> None:
        spec, num_outputs, curse = job
        self.num_jobs += 1
        sampling = spec.sampling
        self.num_tokens += sampling.n * (len(spec.prompt_token_ids) + sampling.max_tokens)
        self.num_curses += curse is not None
        self.world.submit(replace(spec, job_id=f"job{self.num_jobs}"), num_outputs, curse)

    @rule(count=st.integers(1, 12))
    def turns(self, count: int) -> None:
        for _ in range(count):
            self.world.turn()

    @precondition(lambda self: self.world.claiming)
    @rule(max_jobs=st.integers(0, 6))
    def answer_claim(self, max_jobs: int) -> None:
        self.world.answer_claim(max_jobs)

    @precondition(lambda self: self.world.commands)
    @rule()
    def execute(self) -> None:
        self.world.execute()

    @precondition(lambda self: self.world.history)
    @rule(choice=st.integers(0, 100))
    def repeat_report(self, choice: int) -> None:
        self.world.repeat_report(choice)

    @precondition(lambda self: self.world.redis)
    @rule()
    def write(self) -> None:
        self.world.write()

    @precondition(lambda self: self.world.inbox)
    @rule(num_events=st.one_of(st.none(), st.integers(1, 3)))
    def drain(self, num_events: int | None) -> None:
        self.world.drain(num_events)

    @precondition(lambda self: self.world.queue.unended)
    @rule(choice=st.integers(0, 100), is_told=st.booleans())
    def cancel(self, choice: int, is_told: bool) -> None:
        unended = self.world.queue.unended
        self.world.cancel(unended[choice % len(unended)], is_told)

    @rule(now_s=st.sampled_from((6.0, 6.999, 8.0)))
    def tick(self, now_s: float) -> None:
        self.world.tick(now_s)

    @precondition(lambda self: self.num_losses < MAX_LOSSES)
    @rule(answer_claim=st.booleans())
    def lose_worker(self, answer_claim: bool) -> None:
        self.num_losses += 1
        self.world.lose_worker(answer_claim)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()
            num_rounds = MAX_ROUNDS + self.num_takeovers + MAX_FAILURES * self.num_curses**2
            num_steps = self.world.config.num_stages * num_rounds * self.num_tokens
            self.world.finish(max_steps=20 + num_steps)


def run(machine: type[RuleBasedStateMachine] = LaneMachine, **changes: Any) -> None:
    run_state_machine_as_test(machine, settings=settings(QUIET, **changes))


def test_every_log_is_the_lone_run() -> None:
    run(max_examples=250, stateful_step_count=25)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_log_is_the_lone_run_in_many_more_worlds() -> None:
    run(max_examples=4000, stateful_step_count=50, derandomize=False, phases=tuple(Phase))
