"""The ledger and the runner behind an event loop: Hellos and commands, each in its turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stepserve.protocol.errors import StepFailed, StepRefused, Unavailable, one_line
from stepserve.protocol.step import Hello, HelloReply, StepCommand, StepReport, WorkerInfo
from worker_svc.core.ledger import Ledger
from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched, StepRunner
from worker_svc.machine.tally import Tally

log = logging.getLogger(__name__)

# Commands of a stream that are read before they can be executed; then it is read no further.
MAX_WAITING_COMMANDS = 8
BROKEN = "the worker is broken and ends"
STUCK = "a step takes longer than its lane lets it run"
MODEL_THREAD = "model"


class StreamEnded(Exception):
    """The lane closed its half, or the worker is told to end: there are no more commands."""


class Commands:
    """One stream's commands that wait to be executed, and why there are no more."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[StepCommand | Exception] = asyncio.Queue(MAX_WAITING_COMMANDS)

    async def put(self, command: StepCommand) -> None:
        """Wait for room, then add ``command``."""
        await self._waiting.put(command)

    async def end(self, reason: Exception) -> None:
        """No more will come: ``reason`` is raised once the waiting ones are taken."""
        await self._waiting.put(reason)

    def drop(self, reason: Exception) -> None:
        """Forget what waits: ``reason`` is raised next."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(reason)

    async def next(self) -> StepCommand:
        """Return the next command. Raises the reason why there is none."""
        item = await self._waiting.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass(frozen=True, slots=True)
class _Flight:
    """A launched step, and the report that it ends with."""

    plan: StepPlan
    report: asyncio.Task[StepReport]


class Engine:
    """Executes the commands of the newest stream, in their order.

    Planning and absorbing are done in the event loop, launching in a thread of its own, waiting
    for the device in another. Up to ``launch_ahead`` steps are launched before the step before
    them is absorbed. A step that has begun is finished and recorded, whatever becomes of its
    stream.
    """

    def __init__(self, runner: StepRunner, info: WorkerInfo, launch_ahead: int = 0) -> None:
        self.info = info
        # Set once, by an error that is no refusal: nothing can be trusted any more.
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.tally = Tally()
        self._runner = runner
        self._ledger = Ledger(info.incarnation, info.max_kept_reports)
        self._launcher = ThreadPoolExecutor(1, MODEL_THREAD, initializer=_name_thread)
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="wait")
        self._step_due_s = math.inf
        self._turn = asyncio.Lock()
        self._launch_ahead = launch_ahead
        # Launched and not yet absorbed, by step, in their order.
        self._flying: dict[int, _Flight] = {}
        self._driver: Commands | None = None
        self._is_draining = False

    @property
    def is_busy(self) -> bool:
        """Whether a step is computed, or a Hello is being answered."""
        return self._turn.locked() or bool(self._flying)

    @property
    def num_residents(self) -> int:
        """How many sequences the worker holds."""
        return self._runner.num_residents

    @property
    def is_stuck(self) -> bool:
        """Whether the step that the device is at takes longer than its lane lets it."""
        return time.monotonic() > self._step_due_s

    def describe(self) -> WorkerInfo:
        """Return what the worker is. Raises as ``greet`` where nobody should drive it now."""
        self._check_open()
        return self.info

    async def greet(
        self, hello: Hello, commands: Commands
    ) -> tuple[HelloReply, tuple[StepReport, ...]]:
        """Let the stream of ``commands`` drive from now on; the older one is dropped.

        Steps that were launched are finished first, commands that were not are forgotten. The
        reply comes with the kept reports, if they are wanted.

        Raises:
            StepRefused: a stale epoch, another incarnation, or a newer Hello came meanwhile.
            StepFailed: the worker is broken and ends.
            Unavailable: the worker is shutting down, or stuck.
        """
        self._check_open()
        self._ledger.greet(hello)
        self.tally.num_hellos += 1
        log.info("driven by %s, epoch %d, reset %s", hello.lane, hello.epoch, hello.reset)
        if self._driver is not None:
            self._driver.drop(StepRefused(f"superseded by a Hello with epoch {hello.epoch}"))
        self._driver = commands
        async with self._turn:
            await self._land(0)
            self._check_driver(commands)
            if hello.reset:
                self._runner.reset()
                self._ledger.reset()
                self.tally.starves_no_more()
            reports = self._ledger.kept_reports() if hello.wants_reports else ()
            reply = HelloReply(
                self.info,
                self._ledger.last_step,
                self._runner.residents(),
                len(reports),
                self._runner.departed() if hello.wants_reports else (),
                self._runner.last_sequence_id,
            )
            return reply, reports

    async def execute(self, command: StepCommand, commands: Commands) -> StepReport:
        """Execute ``command``, or answer it again. Raises as ``begin`` and its future do."""
        return await (await self.begin(command, commands))

    async def begin(self, command: StepCommand, commands: Commands) -> asyncio.Future[StepReport]:
        """Launch ``command`` once it is its turn; the report comes with the future.

        The future raises StepFailed where the step does; to cancel it changes nothing.

        Raises:
            StepRefused: by the ledger or the runner; nothing was changed.
            StepFailed: an earlier step did, and the worker ends.
            StreamEnded: the worker is shutting down.
            Unavailable: it is stuck.
        """
        async with self._turn:
            self._check_driver(commands)
            self._ledger.check_name(command)
            if command.step not in self._flying:
                kept = self._ledger.kept_report(command)
                if kept is not None:
                    self._ledger.forget(command.committed_step)
                    return _known(kept)
                await self._land(self._launch_ahead)
                self._check_driver(commands)
                self._launch(command)
            report = asyncio.shield(self._flying[command.step].report)
            report.add_done_callback(_seen)
            return report

    async def _land(self, num_flying: int) -> None:
        """Wait until at most so many launched steps are not absorbed."""
        while len(self._flying) > num_flying:
            oldest = next(iter(self._flying.values()))
            await asyncio.wait((oldest.report,))

    def _launch(self, command: StepCommand) -> None:
        plan = self._runner.plan(command)
        self._ledger.begin(command.step)
        self._ledger.forget(command.committed_step)
        before = next(reversed(self._flying.values()), None)
        loop = asyncio.get_running_loop()
        launched = loop.run_in_executor(self._launcher, self._runner.launch, plan)
        report = asyncio.create_task(self._absorb(plan, launched, before))
        self._flying[command.step] = _Flight(plan, report)
        if before is None:
            self.tally.starves_no_more()
            self._watch_oldest()

    def _watch_oldest(self) -> None:
        """The device has come to the oldest step, if there is one: from now on its time runs."""
        oldest = next(iter(self._flying.values()), None)
        limit_ms = oldest.plan.command.max_duration_ms if oldest is not None else 0
        self._step_due_s = time.monotonic() + limit_ms / 1000 if limit_ms else math.inf

    async def _absorb(
        self,
        plan: StepPlan,
        launched: asyncio.Future[Launched],
        before: _Flight | None,
    ) -> StepReport:
        step, loop = plan.command.step, asyncio.get_running_loop()
        try:
            pending = await launched
            if before is not None:
                await before.report
            if pending.is_done():
                chosen = pending.wait()
            else:
                chosen = await loop.run_in_executor(self._waiter, pending.wait)
            report = self._runner.absorb(plan, chosen)
        except Exception as error:
            if not self.failure.done():
                log.error("step %d failed", step, exc_info=True)
                self.failure.set_result(f"step {step} failed: {one_line(error)}")
            raise StepFailed(self.failure.result()) from error
        finally:
            del self._flying[step]
            self._watch_oldest()
        self._ledger.record(report)
        self.tally.landed(report, is_starved=not self._flying and self.num_residents > 0)
        return report

    def leave(self, commands: Commands) -> None:
        """The stream is over; nothing more of it is executed."""
        if self._driver is commands:
            self._driver = None
            log.info("driven by nobody")

    async def drain(self, timeout_s: float) -> None:
        """Take no more; wait for the running step, ``timeout_s`` at most."""
        self._is_draining = True
        if self._driver is not None:
            failed = StepFailed(self.failure.result()) if self.failure.done() else None
            self._driver.drop(failed or StreamEnded())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._turn:
                await self._land(0)
                self._launcher.shutdown(wait=False)
                self._waiter.shutdown(wait=False)

    def _check_open(self) -> None:
        self._check_goes_on(Unavailable("the worker is shutting down"))

    def _check_goes_on(self, end: Exception) -> None:
        if self.failure.done():
            raise StepFailed(self.failure.result())
        if self._is_draining:
            raise end
        if self.is_stuck:
            raise Unavailable(STUCK)

    def _check_driver(self, commands: Commands) -> None:
        self._check_goes_on(StreamEnded())
        if self._driver is not commands:
            raise StepRefused("superseded by a newer Hello")


def _name_thread() -> None:
    """Let the system's tools show which thread computes."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(MODEL_THREAD)


def _known(report: StepReport) -> asyncio.Future[StepReport]:
    future: asyncio.Future[StepReport] = asyncio.get_running_loop().create_future()
    future.set_result(report)
    return future


def _seen(report: asyncio.Future[StepReport]) -> None:
    """A report that fails when its stream is gone has nobody to tell: ``failure`` tells of it."""
    if not report.cancelled():
        report.exception()
