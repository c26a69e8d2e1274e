"""The clock: one heap of what happens next, for all lanes and all clients."""

from __future__ import annotations

import gc
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush

from scheduler_svc.core.events import Effect, Event
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.simulator.collected import Collected
from stepserve_bench.simulator.cost import Latencies, StepCosts
from stepserve_bench.simulator.job import Job
from stepserve_bench.simulator.lane import Lane
from stepserve_bench.simulator.queue import SimulatedQueue
from stepserve_bench.simulator.stages import Window
from stepserve_bench.simulator.streams import Source, Workload
from stepserve_bench.simulator.system import System
from stepserve_bench.simulator.worker import Tally

Watch = Callable[[Lane, Sequence[Event], Sequence[Effect]], None]


class Stuck(Exception):
    """Jobs are left and nothing will happen: a fault of the core, or of the simulation."""


class Simulation:
    """Runs a workload on a system, as fast as it can be computed.

    A pure function of its arguments. ``watch`` is called with a lane after each of its turns,
    and with the turn's events and effects.
    """

    def __init__(
        self,
        system: System,
        workload: Workload,
        costs: StepCosts,
        latencies: Latencies | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.queue = SimulatedQueue(system)
        self.costs = costs
        self.latencies = latencies or Latencies()
        self.now_s = 0.0
        self.lanes = [Lane(number, system, self) for number in range(system.num_workers)]
        self.collected = Collected(system, len(workload.streams))
        self._system = system
        self._watch = watch
        self._max_context = system.core_config().max_context
        self._is_charged = system.policy == "fair"
        self._sources = workload.sources()
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._num_scheduled = 0
        self.num_jobs = 0  # That have come.
        self._awake: dict[Lane, None] = {}
        self._waiting: deque[Lane] = deque()
        # By lane, when each of its steps reached the clients; step 0 is never looked at.
        self._step_times_s = [array("d", [0.0]) for _ in self.lanes]
        # From the first tenth of the jobs to the last one's arrival: filling and draining apart.
        self._block_use = _BlockUse(system.num_workers, system.num_blocks)
        self._num_warm_up = workload.num_jobs // 10
        # From the end of the first tenth of the jobs to that of nine tenths.
        self._num_steady = workload.num_jobs * 9 // 10
        self._steady = Window([use for lane in self.lanes for use in lane.stages.uses])

    def run(self, progress: Callable[[Simulation], None] | None = None) -> Collected:
        """Let everything happen; ``progress`` is called now and then.

        Raises Stuck.
        """
        for source in self._sources:
            self._expect(source)
        self._awake.update(dict.fromkeys(self.lanes))
        self._turn_all()
        # What lives is reachable by plain references and dies by count: collecting cycles
        # would take a third of the time.
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            self._run(progress)
        finally:
            if was_enabled:
                gc.enable()
        return self._finish()

    def _run(self, progress: Callable[[Simulation], None] | None) -> None:
        heap = self._heap
        num_turns = 0
        while heap:
            self.now_s = now_s = heap[0][0]
            while heap and heap[0][0] == now_s:
                _, _, action, arguments = heappop(heap)
                action(*arguments)
            self._turn_all()
            num_turns += 1
            if progress is not None and num_turns % 10_000 == 0:
                progress(self)

    def after(self, time_s: float, action: Callable[..., None], *arguments: object) -> None:
        self._num_scheduled += 1
        heappush(self._heap, (time_s, self._num_scheduled, action, arguments))

    def woken(self, lane: Lane) -> None:
        self._awake[lane] = None

    def waits(self, lane: Lane) -> None:
        if not lane.is_waiting:
            lane.is_waiting = True
            self._waiting.append(lane)

    def computed(self, duration_us: float, tally: Tally) -> None:
        if tally.num_rows:
            shape, collected = tally.shape, self.collected
            collected.step_us.add(duration_us)
            collected.busy_us += duration_us
            collected.num_rows += tally.num_rows
            collected.num_positions += shape.num_positions
            collected.num_useful += shape.num_useful

    def committed(self, lane: Lane, step: int, tally: Tally) -> None:
        """Everything that clients see of the step, they see now."""
        times_s, now_s = self._step_times_s[lane.number], self.now_s
        times_s.append(now_s)
        groups = self.collected.groups
        before_s = times_s[max(0, step - self._system.num_stages)]
        for group, count in self._following(tally):
            groups[group].gap_s.add(now_s - before_s, count)
        for job, last_step in tally.others:
            if last_step:
                groups[job.group].gap_s.add(now_s - times_s[last_step])
            else:
                self.collected.first_token(job, now_s)
        if self._is_charged:
            for job, offset in zip(tally.jobs, tally.offsets, strict=True):
                self.queue.committed(job, offset)

    def _following(self, tally: Tally) -> Iterable[tuple[int, int]]:
        """(group, number) of the tokens that follow one of their micro-batch's step before."""
        if len(self.collected.groups) == 1:
            return [(0, len(tally.jobs) - len(tally.others))]
        counts = Counter(job.group for job in tally.jobs)
        counts.subtract(job.group for job, _ in tally.others)
        return counts.items()

    def ended(self, job: Job) -> None:
        """The job's last token has reached its client."""
        self.queue.ended(job)
        self.collected.ended(job, self.now_s)
        num_ended = self.collected.num_ended
        if num_ended == self._num_warm_up:
            self._steady.begin(self.now_s, num_ended)
        elif num_ended == self._num_steady:
            self._steady.end(self.now_s, num_ended)
        source = self._sources[job.group]
        if source.is_closed_loop:
            self._arrive(source)

    def _expect(self, source: Source) -> None:
        """Schedule the stream's next arrival, and the one after when that is there."""
        time_s = source.next_time_s()
        if time_s is not None:
            self.after(time_s, self._come, source)

    def _come(self, source: Source) -> None:
        self._arrive(source)
        self._expect(source)

    def _arrive(self, source: Source) -> None:
        job = source.draw(self.num_jobs, self.now_s)
        if job is None:
            return
        self.num_jobs += 1
        self._fit(job)
        self.collected.groups[job.group].num_submitted += 1
        self.collected.first_arrival_s = min(self.collected.first_arrival_s, self.now_s)
        self.queue.submit(job)
        self._ring(job)
        if self.num_jobs <= self._num_warm_up:
            self._block_use.begin(self.now_s)
        else:
            self._block_use.end(self.now_s)

    def _fit(self, job: Job) -> None:
        """Cut the output to the context. Raises InvalidRequest where the prompt fills it."""
        room = self._max_context - job.prompt
        if room < 1:
            raise InvalidRequest("max_context", f"a prompt of {job.prompt} tokens fills it")
        job.output = min(job.output, room)
        job.max_tokens = min(job.max_tokens, room)

    def _ring(self, job: Job) -> None:
        """Of the lanes that would take the job, the one that has waited longest looks for it."""
        for _ in range(len(self._waiting)):
            lane = self._waiting.popleft()
            if lane.wish is None:
                lane.is_waiting = False
            elif lane.wish.max_rank > job.rank:
                lane.is_waiting = False
                lane.look()
                return
            else:
                self._waiting.append(lane)

    def _turn_all(self) -> None:
        awake, self._awake = self._awake, {}
        for lane in awake:
            events, effects = lane.turn()
            num_blocks = self._block_use.update(self.now_s, lane)
            if lane.number == 0:
                self.collected.series.add(self.now_s, lane.core.num_running, num_blocks)
            if self._watch is not None:
                self._watch(lane, events, effects)

    def _finish(self) -> Collected:
        collected = self.collected
        if collected.num_ended != self.num_jobs:
            raise Stuck(f"{self.num_jobs - collected.num_ended} jobs are left, and all is quiet")
        collected.block_use = self._block_use.mean(self.now_s)
        self._steady.end(self.now_s, collected.num_ended)
        collected.stage_idle_shares = self._steady.idle_shares
        collected.steady_requests_per_s = self._steady.requests_per_s
        for lane in self.lanes:
            collected.num_preemptions += lane.core.counts.num_preemptions
            collected.num_computed_twice += lane.worker.num_computed_twice
            collected.num_prefix_hits += lane.worker.num_prefix_hits
        return collected


class _BlockUse:
    """The blocks that all lanes hold, integrated over time."""

    def __init__(self, num_lanes: int, num_blocks: int) -> None:
        self._num_held = [0] * num_lanes
        self._num_blocks = num_blocks
        self._total = 0
        self._since_s = self._block_s = 0.0
        self._begin = self._end = (0.0, 0.0)

    def update(self, now_s: float, lane: Lane) -> int:
        """Take note of what the lane holds from now on; return it."""
        num_held = self._num_blocks - lane.core.num_free_blocks
        self._block_s += self._total * (now_s - self._since_s)
        self._since_s = now_s
        self._total += num_held - self._num_held[lane.number]
        self._num_held[lane.number] = num_held
        return num_held

    def begin(self, now_s: float) -> None:
        self._begin = self._end = self._at(now_s)

    def end(self, now_s: float) -> None:
        self._end = self._at(now_s)

    def mean(self, now_s: float) -> float:
        """The share of all blocks that was held from begin to end; until now where they are one."""
        end = self._end if self._end[0] > self._begin[0] else self._at(now_s)
        passed_s = end[0] - self._begin[0]
        capacity = self._num_blocks * len(self._num_held)
        return (end[1] - self._begin[1]) / (passed_s * capacity) if passed_s else 0.0

    def _at(self, now_s: float) -> tuple[float, float]:
        return now_s, self._block_s + self._total * (now_s - self._since_s)
