"""How each kind of fault is done to a running fleet."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.fleet import Fleet
from stepserve_bench.chaos.kinds import KINDS
from stepserve_bench.chaos.member import POLL_S, Member
from stepserve_bench.chaos.poison import convicted, too_many
from stepserve_bench.chaos.schedule import Fault
from stepserve_bench.chaos.stopping import stopped_process, stopped_thread
from worker_svc.engine import MODEL_THREAD

# How much later everything comes over a link that is slow: every step takes this long twice.
DELAY_S = 0.05
MAX_WAIT_S = 120.0

# The jobs that each (worker, scheduler) that drives it holds, by their names.
Claims = Mapping[tuple[str, str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Victims:
    """Who is struck: some workers, some schedulers, or ``other`` where there is neither."""

    workers: Sequence[Member] = ()
    schedulers: Sequence[Member] = ()
    other: str = "redis"

    @property
    def names(self) -> str:
        return ", ".join(m.name for m in (*self.workers, *self.schedulers)) or self.other


async def choose(fleet: Fleet, fault: Fault, claims: Claims) -> Victims:
    """Return who is struck, among those who are up; waits for one, and raises where none comes.

    Where some of them have jobs, it is one of those: a fault that concerns nobody shows nothing.
    """
    part = KINDS[fault.kind].part
    if part == "all":
        return Victims(fleet.workers, fleet.schedulers)
    if part == "job":
        return Victims(other="who runs it")
    if part == "redis":
        await _until(lambda: fleet.redis.is_up)
        return Victims()
    if part == "pair":
        await _in_time(fleet.redis.until_followed())
        return Victims()
    candidates = fleet.workers if part in ("worker", "both", "link") else fleet.schedulers
    await _until_any_is_up(candidates)
    busy = {name for names, job_ids in claims.items() if job_ids for name in names}
    alive = [member for member in candidates if member.is_up]
    victim = fault.choose([member for member in alive if member.name in busy] or alive)
    if part == "both":
        drivers = {scheduler for worker, scheduler in claims if worker == victim.name}
        driver = [m for m in fleet.schedulers if m.name in drivers and m.is_up]
        return Victims((victim,), driver)
    return Victims((victim,)) if part in ("worker", "link") else Victims((), (victim,))


async def strike(fleet: Fleet, fault: Fault, victims: Victims) -> list[str]:
    """Do it, undo it when its time is over, and start again what ended; return what went wrong."""
    return list(filter(None, await _STRIKES[fault.kind](fleet, fault, victims)))


async def _killed(_fleet: Fleet, _fault: Fault, victims: Victims) -> Sequence[str]:
    members = (*victims.workers, *victims.schedulers)
    for member in members:
        member.signal(signal.SIGKILL)
    return await asyncio.gather(*(member.revive() for member in members))


async def _ended(_fleet: Fleet, _fault: Fault, victims: Victims) -> Sequence[str]:
    [member] = (*victims.workers, *victims.schedulers)
    member.signal(signal.SIGTERM)
    return [await member.revive()]


async def _stopped(_fleet: Fleet, fault: Fault, victims: Victims) -> Sequence[str]:
    [member] = (*victims.workers, *victims.schedulers)
    process = member.child.process
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(fault.lasts_s)
    process.send_signal(signal.SIGCONT)  # nothing, where it was killed meanwhile
    return []


async def _thread_stopped(_fleet: Fleet, fault: Fault, victims: Victims) -> Sequence[str]:
    """Tracing begins and ends in one thread of ours."""
    [worker] = victims.workers
    if worker.is_traced:  # nobody can be traced twice
        return []
    worker.is_traced = True
    loop, stack = asyncio.get_running_loop(), ExitStack()
    with ThreadPoolExecutor(1) as tracer:
        stop = stopped_thread(worker.pid, MODEL_THREAD)
        try:
            await loop.run_in_executor(tracer, stack.enter_context, stop)
        except (OSError, ValueError) as error:
            if isinstance(error, PermissionError):
                raise StepserveError("thread-stop: nobody may trace here; leave it out") from None
            # Else it has computed nothing yet, or was killed this moment.
        else:
            await asyncio.sleep(fault.lasts_s)
            await loop.run_in_executor(tracer, stack.close)
        finally:
            worker.is_traced = False
    return []


async def _cut(_fleet: Fleet, _fault: Fault, victims: Victims) -> Sequence[str]:
    [member] = (*victims.workers, *victims.schedulers)
    assert member.link is not None
    member.link.cut()
    return []


async def _delayed(_fleet: Fleet, fault: Fault, victims: Victims) -> Sequence[str]:
    [member] = (*victims.workers, *victims.schedulers)
    assert member.link is not None
    async with member.link.delayed(DELAY_S):
        await asyncio.sleep(fault.lasts_s)
    return []


async def _hole(_fleet: Fleet, fault: Fault, victims: Victims) -> Sequence[str]:
    [member] = (*victims.workers, *victims.schedulers)
    assert member.link is not None
    async with member.link.stopped():
        await asyncio.sleep(fault.lasts_s)
    return []


async def _redis_killed(fleet: Fleet, fault: Fault, _victims: Victims) -> Sequence[str]:
    await fleet.redis.end(signal.SIGKILL, fault.lasts_s)
    return []


async def _redis_torn(fleet: Fleet, fault: Fault, _victims: Victims) -> Sequence[str]:
    await fleet.redis.end(signal.SIGKILL, fault.lasts_s, is_torn=True)
    return []


async def _redis_ended(fleet: Fleet, fault: Fault, _victims: Victims) -> Sequence[str]:
    await fleet.redis.end(signal.SIGTERM, fault.lasts_s)
    return []


async def _redis_stopped(fleet: Fleet, fault: Fault, _victims: Victims) -> Sequence[str]:
    with stopped_process(fleet.redis.pid):
        await asyncio.sleep(fault.lasts_s)
    return []


async def _redis_failed_over(fleet: Fleet, fault: Fault, _victims: Victims) -> Sequence[str]:
    await fleet.redis.fail_over(fault.lasts_s)
    return []


async def _poisoned(fleet: Fleet, _fault: Fault, _victims: Victims) -> Sequence[str]:
    async with fleet.poisoning:
        num_before = fleet.num_crashes
        problem = await convicted(fleet.targets)
        return [problem, too_many(fleet.num_crashes - num_before, fleet.num_jobs)]


async def _rolling(fleet: Fleet, fault: Fault, victims: Victims) -> Sequence[str]:
    """As an operator does it: the next one once the one before serves again."""
    problems: list[str] = []
    for member in (*victims.schedulers, *victims.workers):
        await _until_any_is_up([member])
        problems += await _ended(fleet, fault, Victims((member,)))
    await _until(lambda: fleet.redis.is_up)
    await _redis_ended(fleet, fault, victims)
    return problems


async def _until_any_is_up(members: Sequence[Member]) -> None:
    await _until(lambda: any(member.is_up for member in members))


async def _until(condition: Callable[[], bool]) -> None:
    await _in_time(_poll(condition))


async def _poll(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(POLL_S)


async def _in_time(coming: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(coming, MAX_WAIT_S)
    except TimeoutError:
        raise StepserveError("nobody is up to be struck") from None


_STRIKES: Mapping[str, Callable[[Fleet, Fault, Victims], Awaitable[Sequence[str]]]] = {
    "worker-kill": _killed,
    "worker-stop": _stopped,
    "thread-stop": _thread_stopped,
    "worker-end": _ended,
    "scheduler-kill": _killed,
    "scheduler-stop": _stopped,
    "scheduler-end": _ended,
    "both-kill": _killed,
    "link-cut": _cut,
    "link-delay": _delayed,
    "link-hole": _hole,
    "client-cut": _cut,
    "client-delay": _delayed,
    "client-hole": _hole,
    "redis-kill": _redis_killed,
    "redis-end": _redis_ended,
    "redis-stop": _redis_stopped,
    "redis-torn": _redis_torn,
    "redis-failover": _redis_failed_over,
    "poison": _poisoned,
    "rolling-restart": _rolling,
}
