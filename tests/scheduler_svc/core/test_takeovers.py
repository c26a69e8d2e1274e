"""Lanes come and go over one worker, at any moment: the logs are the lone runs', exactly once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from scheduler_svc.core.config import CoreConfig
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.build import core_config
from tests.scheduler_svc.core.test_machine import LaneMachine, Submitted, configs, jobs, run
from tests.scheduler_svc.core.world import World

MAX_TAKEOVERS = 6


@st.composite
def roomy(draw: st.DrawFn) -> CoreConfig:
    """Some sequences run at once, and now and then one has to give way."""
    block_size = draw(st.integers(1, 4))
    return core_config(
        num_blocks=draw(st.sampled_from((96, 60, 140, 36))) // block_size,
        block_size=block_size,
        max_context=24,
        max_batch_size=draw(st.sampled_from((4, 6, 2))),
        max_step_tokens=draw(st.sampled_from((32, 12, 60))),
        max_steps_in_flight=draw(st.integers(1, 3)),
        max_uncommitted_steps=draw(st.integers(3, 8)),
        prefix_caching=draw(st.sampled_from((True, True, False))),
    )


@st.composite
def long_jobs(draw: st.DrawFn) -> Submitted:
    """A job that is still there after some turns."""
    spec, _, curse = draw(jobs())
    sampling = replace(spec.sampling, max_tokens=draw(st.integers(6, 14)))
    return replace(spec, sampling=sampling), {}, curse


class TakeoverMachine(LaneMachine):
    """A lane dies after some turns, and some steps of which nothing came to Redis."""

    max_batch_size = 0

    @initialize(
        config=st.one_of(roomy(), configs()), batch=st.lists(long_jobs(), min_size=4, max_size=6)
    )
    def start(self, config: CoreConfig, batch: list[Submitted]) -> None:
        super().start(config, batch)
        self.max_batch_size = config.max_batch_size

    @precondition(lambda self: self.num_takeovers < MAX_TAKEOVERS)
    @rule(
        num_turns=st.sampled_from((3, 5, 1, 8, 0)),
        num_unwritten=st.sampled_from((2, 1, 4, 0)),
        num_places=st.sampled_from((6, 6, 6, 2, 1)),
        max_steps_in_flight=st.integers(1, 3),
    )
    def take_over(
        self, num_turns: int, num_unwritten: int, num_places: int, max_steps_in_flight: int
    ) -> None:
        self.num_takeovers += 1
        for _ in range(num_turns):
            self.world.turn()
        for _ in range(num_unwritten):
            if self.world.commands:
                self.world.execute()
            self.world.drain()
        self.world.take_over(min(num_places, self.max_batch_size), max_steps_in_flight)


def test_takeovers_lose_and_repeat_nothing() -> None:
    run(TakeoverMachine, max_examples=60, stateful_step_count=15)


@pytest.mark.parametrize("num_stages", [2, 4])
@pytest.mark.parametrize("num_executed", range(7))
def test_a_pipeline_is_taken_over_whoever_its_last_step_named(
    num_stages: int, num_executed: int
) -> None:
    world = World(core_config(max_steps_in_flight=num_stages + 1, num_stages=num_stages))
    spec = JobSpec("job", "model", [1, 2, 3], Sampling(max_tokens=9, seed=5), arrival_s=1.0)
    world.submit(spec, {}, None)
    for _ in range(2):
        world.turn()
    for _ in range(num_executed):
        if world.commands:
            world.execute()
        world.drain()
    world.take_over(world.config.max_batch_size, num_stages + 1)
    world.finish(max_steps=200)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_takeovers_lose_and_repeat_nothing_in_many_more_worlds() -> None:
    many = {"max_examples": 3000, "stateful_step_count": 30, "derandomize": False}
    run(TakeoverMachine, **many, phases=tuple(Phase))
