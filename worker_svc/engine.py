"""The ledger and the runner behind one thread: Hellos and commands, each in its turn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from protos.errors import StepRefused, StepserveError, Unavailable
from protos.step import Hello, HelloReply, StepCommand, StepReport, WorkerInfo
from worker_svc.ledger import Ledger
from worker_svc.runner import Runner

log = logging.getLogger(__name__)

# Commands of a stream that are read before they can be executed; then it is read no further.
MAX_WAITING_COMMANDS = 8
BROKEN = "the worker is broken and ends"
STUCK = "a step takes longer than its lane lets it run"
MODEL_THREAD = "model"


class StreamEnded(Exception):
    """The lane closed its half: there are no more commands."""


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


class Engine:
    """Executes the commands of the newest stream, one at a time, in a thread of its own.

    A step that has begun is finished and recorded, whatever becomes of its stream.
    """

    def __init__(self, runner: Runner, info: WorkerInfo) -> None:
        self.info = info
        # Set once, by an error that is no refusal: nothing can be trusted any more.
        self.failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._ledger = Ledger(info.incarnation, info.max_kept_reports)
        self._thread = ThreadPoolExecutor(1, MODEL_THREAD, initializer=_name_thread)
        self._step_due_s = math.inf
        self._turn = asyncio.Lock()
        self._driver: Commands | None = None
        self._is_draining = False

    @property
    def is_busy(self) -> bool:
        """Whether somebody has the turn: a step runs, or a Hello is being answered."""
        return self._turn.locked()

    @property
    def is_stuck(self) -> bool:
        """Whether the step that runs takes longer than its lane lets it."""
        return time.monotonic() > self._step_due_s

    def describe(self) -> WorkerInfo:
        """Return what the worker is. Raises Unavailable where nobody should drive it now."""
        self._check_open()
        return self.info

    async def greet(self, hello: Hello, commands: Commands) -> HelloReply:
        """Let the stream of ``commands`` drive from now on; the older one is dropped.

        Raises:
            StepRefused: a stale epoch, another incarnation, or a newer Hello came meanwhile.
            Unavailable: the worker is shutting down, stuck or broken.
        """
        self._check_open()
        self._ledger.greet(hello)
        log.info("driven by %s, epoch %d, reset %s", hello.lane, hello.epoch, hello.reset)
        if self._driver is not None:
            self._driver.drop(StepRefused(f"superseded by a Hello with epoch {hello.epoch}"))
        self._driver = commands
        async with self._turn:
            self._check_driver(commands)
            if hello.reset:
                self._runner.reset()
                self._ledger.reset()
            return HelloReply(self.info, self._ledger.last_step, self._runner.residents())

    async def execute(self, command: StepCommand, commands: Commands) -> StepReport:
        """Execute ``command``, or answer it again.

        Raises:
            StepRefused: by the ledger or the runner; nothing was changed.
            Unavailable: the worker is shutting down, or broken.
        """
        return await asyncio.shield(self._execute(command, commands))

    async def _execute(self, command: StepCommand, commands: Commands) -> StepReport:
        async with self._turn:
            self._check_driver(commands)
            report = self._ledger.kept_report(command)
            if report is None:
                report = await self._run(command)
                self._ledger.record(report)
            self._ledger.forget(command.committed_step)
            return report

    async def _run(self, command: StepCommand) -> StepReport:
        loop = asyncio.get_running_loop()
        if command.max_duration_ms:
            self._step_due_s = time.monotonic() + command.max_duration_ms / 1000
        try:
            return await loop.run_in_executor(self._thread, self._runner.execute, command)
        except StepserveError:
            raise
        except Exception as error:
            log.error("step %d failed", command.step, exc_info=True)
            self.failure.set_result(f"step {command.step} failed: {_one_line(error)}")
            raise Unavailable(BROKEN) from error
        finally:
            self._step_due_s = math.inf

    def leave(self, commands: Commands) -> None:
        """The stream is over; nothing more of it is executed."""
        if self._driver is commands:
            self._driver = None
            log.info("driven by nobody")

    async def drain(self, timeout_s: float) -> None:
        """Take no more; wait for the running step, ``timeout_s`` at most."""
        self._is_draining = True
        if self._driver is not None:
            self._driver.drop(Unavailable("the worker is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._turn:
                self._thread.shutdown(wait=False)

    def _check_open(self) -> None:
        if self.failure.done():
            raise Unavailable(BROKEN)
        if self._is_draining:
            raise Unavailable("the worker is shutting down")
        if self.is_stuck:
            raise Unavailable(STUCK)

    def _check_driver(self, commands: Commands) -> None:
        self._check_open()
        if self._driver is not commands:
            raise StepRefused("superseded by a newer Hello")


def _name_thread() -> None:
    """Let the system's tools show which thread computes."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(MODEL_THREAD)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
