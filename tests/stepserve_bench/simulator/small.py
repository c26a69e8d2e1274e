"""Small systems and workloads with everything drawn from a seed, and what must hold in each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scheduler_svc.core.events import Effect, Event
from stepserve_bench.simulator.collected import Collected
from stepserve_bench.simulator.cost import Latencies, StepCosts
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.lane import Lane
from stepserve_bench.simulator.simulation import Simulation
from stepserve_bench.simulator.stages import Link
from stepserve_bench.simulator.streams import Stream, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import (
    AllAtOnce,
    Arrivals,
    Bursty,
    ClosedLoop,
    OnOff,
    Poisson,
)
from stepserve_bench.workloads.lengths import Bounds, UniformLengths

COSTS = StepCosts(link_us=100.0, overhead_us=500.0, position_us=20.0, context_us=1.0)
MAX_TOKENS = 24  # Of a prompt without its prefix, and of an output.
MAX_PREFIX = 12
# Every token is computed at most so many times on average, preemption included.
MAX_ROUNDS = 4


def draw_system(chance: random.Random) -> System:
    """Any combination of the settings; often with hardly more blocks than one job may want."""
    block_size = chance.randint(1, 6)
    max_context = 2 * MAX_TOKENS + MAX_PREFIX
    fewest = -(-max_context // block_size)
    num_blocks = fewest + chance.choice((0, 0, 1, 3, fewest, 10 * fewest))
    return System(
        batching=chance.choice(("continuous", "continuous", "static")),
        attention=chance.choice(("paged", "grouped", "padded")),
        policy=chance.choice(("fcfs", "priority", "fair")),
        num_workers=chance.choice((1, 1, 2, 4)),
        max_batch_size=chance.randint(1, 16),
        max_step_tokens=chance.choice((chance.randint(1, 8), chance.randint(8, 100))),
        max_steps_in_flight=chance.choice((1, 2, 2, 3)),
        num_blocks=num_blocks,
        block_size=block_size,
        max_context=max_context,
        prefix_caching=chance.random() < 0.5,
        enable_preemption=chance.random() < 0.7,
        preemption_margin_s=chance.choice((0.0, 0.05, 10.0)),
        target_step_us=chance.choice((0, 0, 800)),
        tenant_weights={"tenant1": chance.choice((0.5, 1.0, 3.0))},
    )


def draw_stages(system: System, chance: random.Random) -> System:
    """The same system with workers of several stages."""
    return replace(
        system,
        num_stages=chance.randint(2, 4),
        target_batch_size=chance.choice((None, 1, 2, 8)),
        stage_link=chance.choice((Link(), Link(0.0, 0.0), Link(500.0, 10.0))),
    )


def draw_workload(chance: random.Random) -> Workload:
    """A few streams of short jobs, with as many jobs in all as can be checked quickly."""
    num_streams = chance.randint(1, 3)
    streams = tuple(_draw_stream(chance, number) for number in range(num_streams))
    return Workload(streams, seed=chance.randrange(1 << 30))


def draw_latencies(chance: random.Random) -> Latencies:
    return chance.choice((Latencies(), Latencies(commit_us=0.0, commit_row_us=0.0, claim_us=0.0)))


@dataclass(frozen=True)
class _Uneven:
    """Most outputs are short, a few as long as any: what is expected of them is wrong."""

    prompts: Bounds

    def draw(self, chance: random.Random) -> tuple[int, int]:
        output = MAX_TOKENS if chance.random() < 0.3 else chance.randint(1, 4)
        return self.prompts.draw(chance), output


def _draw_stream(chance: random.Random, number: int) -> Stream:
    prompts = Bounds(1, chance.randint(1, MAX_TOKENS))
    outputs = Bounds(1, chance.randint(1, MAX_TOKENS))
    return Stream(
        arrivals=_draw_arrivals(chance),
        lengths=chance.choice((UniformLengths(prompts, outputs), _Uneven(prompts))),
        num_jobs=chance.randint(1, 40),
        tenant=f"tenant{number}",
        urgent_share=chance.choice((0.0, 0.3)),
        urgent_priority=chance.randint(1, 10),
        max_tokens=chance.choice((0, MAX_TOKENS, MAX_TOKENS)),
        prefix_tokens=chance.choice((0, 0, MAX_PREFIX)),
    )


def _draw_arrivals(chance: random.Random) -> Arrivals:
    rate = chance.choice((20.0, 200.0, 2000.0))
    kinds = (AllAtOnce(), Poisson(rate), Bursty(rate), OnOff(rate, 0.01, 0.05), ClosedLoop(3))
    return chance.choice(kinds)


@dataclass
class Watched:
    """A simulation whose every turn is checked."""

    system: System
    workload: Workload
    latencies: Latencies = field(default_factory=Latencies)
    ended: list[Job] = field(default_factory=list)
    started: set[int] = field(default_factory=set)

    @classmethod
    def draw(cls, seed: int) -> Watched:
        chance = random.Random(seed)
        system = draw_system(chance)
        # Every other world has a pipeline, of which the others know nothing.
        if seed % 2 == 0:
            system = draw_stages(system, random.Random(f"{seed} stages"))
        return cls(system, draw_workload(chance), draw_latencies(chance))

    def run(self) -> Collected:
        """Run it to the end, and check the end as well."""
        simulation = _Recording(self)
        collected = simulation.run()
        self._check_end(simulation, collected)
        return collected

    def turned(self, lane: Lane, events: Sequence[Event], effects: Sequence[Effect]) -> None:  # noqa: ARG002
        """Blocks are conserved, and whoever was let in went before nobody of a lower rank."""
        lane.core.check()
        here = lane.jobs.values()
        newcomers = [job for job in here if job.num_admitted and job.number not in self.started]
        self.started.update(job.number for job in newcomers)
        waiting = [job.rank for job in here if not job.num_admitted]
        if newcomers and waiting:
            assert max(job.rank for job in newcomers) <= min(waiting), "overtaken in the lane"

    def _check_end(self, simulation: Simulation, collected: Collected) -> None:
        numbers = [job.number for job in self.ended]
        assert sorted(numbers) == list(range(len(numbers))), "a job ended twice, or never"
        assert len(numbers) == sum(group.num_submitted for group in collected.groups)
        for job in self.ended:
            assert job.num_done == job.output, "not its own length"
        for lane in simulation.lanes:
            core = lane.core
            core.check()
            assert core.num_free_blocks == self.system.num_blocks, "blocks are lost"
            assert core.num_running == core.num_waiting == core.num_departing == 0
            assert core.num_steps_in_flight == 0
            assert lane.worker.num_held_blocks == 0, "the worker still holds blocks"
            assert not lane.jobs
        num_tokens = sum(job.prompt + job.output for job in self.ended)
        assert collected.num_useful <= MAX_ROUNDS * num_tokens, "computed over and over"


class _Recording(Simulation):
    """Keeps who has ended."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched.system, watched.workload, COSTS, watched.latencies, watched.turned)
        self._ended = watched.ended

    def ended(self, job: Job) -> None:
        self._ended.append(job)
        super().ended(job)
