"""A lane in virtual time: the real core between a simulated worker and a simulated Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from scheduler_svc.core.events import (
    Claim,
    Claimed,
    Commit,
    Committed,
    Effect,
    Event,
    Reported,
    Send,
)
from scheduler_svc.core.scheduler import Core
from stepserve.protocol.job import ClaimedJob, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import StepCommand
from stepserve_bench.simulator.cost import Latencies, StepCosts
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.queue import SimulatedQueue
from stepserve_bench.simulator.stages import Stages
from stepserve_bench.simulator.system import System
from stepserve_bench.simulator.worker import SimulatedWorker, Tally


class World(Protocol):
    """What a lane needs of the simulation around it."""

    queue: SimulatedQueue
    costs: StepCosts
    latencies: Latencies
    now_s: float

    def after(self, time_s: float, action: Callable[..., None], *arguments: object) -> None:
        """Call ``action(*arguments)`` at that time."""
        ...

    def woken(self, lane: Lane) -> None:
        """The lane has events: it has a turn before time goes on."""
        ...

    def waits(self, lane: Lane) -> None:
        """The lane found no job; it is told when one comes."""
        ...

    def committed(self, lane: Lane, step: int, tally: Tally) -> None:
        """A step's tokens reach their clients now."""
        ...

    def ended(self, job: Job) -> None:
        """The job's last token has reached its client."""
        ...

    def computed(self, duration_us: float, tally: Tally) -> None:
        """A worker has a step to compute that takes so long."""
        ...


class Lane:
    """Drives one worker as ``scheduler_svc.lane.lane`` does; see there for each effect."""

    def __init__(self, number: int, system: System, world: World) -> None:
        self.number = number
        self.core = Core(system.core_config())
        self.inbox: list[Event] = []
        self.jobs: dict[str, Job] = {}
        self.worker = SimulatedWorker(system, self.jobs.__getitem__)
        self.wish: Claim | None = None
        self.is_waiting = False
        self._world = world
        self._are_hashed = system.prefix_caching
        self._is_looking = False
        costs = world.costs.split(system.num_stages)
        self.stages = Stages(costs, system.stage_link)
        self._commits_free_s = 0.0
        self._tallies: dict[int, Tally] = {}
        self._samplings: dict[int, Sampling] = {}

    def turn(self) -> tuple[list[Event], list[Effect]]:
        """Let the core decide on what has happened, and do what it says; return both."""
        events, self.inbox = self.inbox, []
        effects = self.core.handle(events)
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect.command)
            elif isinstance(effect, Commit):
                self._commit(effect)
            elif isinstance(effect, Claim):
                self.wish = effect
                self.look()
            else:
                raise AssertionError(f"nothing here makes a core ask for {effect}")
        return events, effects

    def look(self) -> None:
        """Look for jobs, one round trip from now, unless that is on its way."""
        if not self._is_looking:
            self._is_looking = True
            world = self._world
            world.after(world.now_s + world.latencies.claim_us * 1e-6, self._claim)

    def _claim(self) -> None:
        self._is_looking = False
        if self.wish is None:
            return
        known: dict[int, int] = {}

        def cached(job: Job) -> int:
            # Prompts of a group begin alike; those without a shared prefix are like no other.
            if job.prefix and job.group not in known:
                token_ids = job.prompt_token_ids(True)[: job.prefix + 1]
                known[job.group] = self.core.num_cached_tokens(job.tenant, token_ids)
            return known.get(job.group, 0) if job.prefix else 0

        prefer = cached if self._are_hashed else None
        claimed = self._world.queue.claim(self.wish.max_jobs, self.wish.max_rank, prefer)
        if not claimed and self.wish.stands:
            self._world.waits(self)
            return
        self.wish = None
        self._tell(Claimed(tuple(map(self._claimed_job, claimed))))

    def _claimed_job(self, job: Job) -> ClaimedJob:
        job_id = str(job.number)
        self.jobs[job_id] = job
        sampling = self._samplings.setdefault(job.max_tokens, Sampling(job.max_tokens))
        spec = JobSpec(
            job_id,
            "",
            job.prompt_token_ids(self._are_hashed),
            sampling,
            tenant=job.tenant,
            priority=job.priority,
            arrival_s=job.arrival_s,
        )
        return ClaimedJob(spec, (OutputLog(0),), job.rank)

    def _send(self, command: StepCommand) -> None:
        """The report comes when the last stage is through."""
        world = self._world
        link_s = world.costs.link_us * 1e-6
        tally = self.worker.execute(command)
        duration_us, end_s = self.stages.compute(world.now_s + link_s, tally.shape)
        self._tallies[command.step] = tally
        world.computed(duration_us, tally)
        report = tally.report(command, duration_us)
        world.after(end_s + link_s, self._tell, Reported(report))

    def _commit(self, effect: Commit) -> None:
        """Redis takes one commit after another."""
        world = self._world
        costs = world.latencies
        duration_us = costs.commit_us + costs.commit_row_us * len(effect.rows)
        if not effect.rows:
            duration_us = 0.0
        self._commits_free_s = max(self._commits_free_s, world.now_s) + duration_us * 1e-6
        world.after(self._commits_free_s, self._committed, effect.step)

    def _committed(self, step: int) -> None:
        tally = self._tallies.pop(step, None)
        if tally is not None:
            self._world.committed(self, step, tally)
            for job in tally.ended:
                del self.jobs[str(job.number)]
                self._world.ended(job)
        self._tell(Committed(step))

    def _tell(self, event: Event) -> None:
        self.inbox.append(event)
        self._world.woken(self)
