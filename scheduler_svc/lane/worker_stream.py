"""A lane's end of ``Worker.Steps``: commands out, reports in, over connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast

import grpc

from scheduler_svc.lane.step_deadline import StepDeadline
from stepserve.protocol import step_wire
from stepserve.protocol.channel import channel_options
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.step import Hello, HelloReply, StepCommand, StepReport, WorkerInfo
from stepserve.tls.fleet import FleetCaller

DESCRIBE_TIMEOUT_S = 2.0
HELLO_TIMEOUT_S = 5.0
# Of a worker that is given up already: its jobs wait.
LAST_WORD_TIMEOUT_S = 0.3
# Before each try but the first: a connection that broke may come back, and whoever started a
# worker that has died tells how it ended within moments.
RECONNECT_WAITS_S = (0.1, 0.15, 0.2, 0.25)
# A worker whose process stands still is noticed by these, also while it owes nothing.
PING_INTERVAL_MS, PING_TIMEOUT_MS = 1000, 2000
# Looks at the clock within the shortest time that a report may be owed.
NUM_LOOKS = 16
REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)


class WorkerGone(StepserveError):
    """The worker died, hangs, was restarted, or refuses us: its sequences are lost."""


class WorkerCrashed(WorkerGone):
    """A step failed, as the worker says, or it crashed, as whoever started it says."""


class WorkerSilent(WorkerGone):
    """Nobody answers where it was."""


class WorkerRefuses(WorkerGone):
    """The worker takes no such command: one of us is wrong about a sequence in it."""


class WorkerStream:
    """One stream to one worker incarnation.

    Commands that were not answered when the connection broke are sent again: the
    worker answers a step it has executed from the reports that it keeps. Where it has died,
    whoever started it may answer in its place, and say how it ended. A worker that
    owes a report for longer than ``deadline`` says, or answers no ping, is hung, and hung
    is dead: it is not greeted again.
    """

    def __init__(
        self, address: str, deadline: StepDeadline, caller: FleetCaller | None = None
    ) -> None:
        options = channel_options(
            ping_interval_ms=PING_INTERVAL_MS, ping_timeout_ms=PING_TIMEOUT_MS
        )
        self._caller = caller or FleetCaller()
        self._channel = self._caller.channel(address, options)
        self._stub = step_wire.WorkerStub(self._channel)  # type: ignore[no-untyped-call]
        self._deadline = deadline
        self._unanswered: deque[StepCommand] = deque()
        self._owed_s = 0.0
        # Commands reach the worker in step order, also while a connection is replaced.
        self._writing = asyncio.Lock()
        self._hello: Hello | None = None
        self._call: grpc.aio.StreamStreamCall[Any, Any] | None = None

    @property
    def unanswered(self) -> Sequence[StepCommand]:
        """The commands whose reports are owed, oldest first."""
        return tuple(self._unanswered)

    async def describe(self) -> WorkerInfo:
        """Ask what the worker is. Raises WorkerGone where none answers."""
        try:
            info = await self._stub.Describe(
                step_wire.describe_request(),
                timeout=DESCRIBE_TIMEOUT_S,
                metadata=self._caller.metadata,
            )
        except grpc.aio.AioRpcError as error:
            raise WorkerGone(f"no answer to Describe: {error.details()}") from None
        return step_wire.decode_info(info)

    async def last_word(self, told: Sequence[WorkerGone]) -> WorkerGone:
        """Return how the worker went: that it crashed, if anybody has said so, or says so by now.

        Its death may be noticed in several ways, in any order, and before whoever started it knows.
        """
        crashes = [gone for gone in told if isinstance(gone, WorkerCrashed)]
        if crashes:
            return crashes[0]
        try:
            await self._stub.Describe(
                step_wire.describe_request(),
                timeout=LAST_WORD_TIMEOUT_S,
                metadata=self._caller.metadata,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                return WorkerCrashed(error.details())
        return told[0]

    async def open(self, hello: Hello) -> HelloReply:
        """Say Hello; return the reply. Raises WorkerGone where it is refused."""
        reply = await self._connect(hello)
        incarnation = reply.info.incarnation
        self._hello = replace(hello, incarnation=incarnation, reset=False, wants_reports=False)
        return reply

    async def kept_reports(self, count: int) -> list[StepReport]:
        """Return the reports that follow the reply. Raises WorkerGone where they do not come."""
        reports: list[StepReport] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                while len(reports) < count and (report := await self._read()) is not None:
                    reports.append(report)
        if len(reports) < count:
            raise WorkerGone(f"{len(reports)} of the {count} reports that it keeps came")
        return reports

    async def _connect(self, hello: Hello) -> HelloReply:
        call = self._stub.Steps(metadata=self._caller.metadata)
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await call.write(step_wire.encode_lane_message(hello))
                answer = await call.read()
        except TimeoutError:
            call.cancel()
            raise WorkerGone("no answer to Hello in time") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            raise _hello_failure(await call.code(), await call.details())
        if self._call is not None:
            self._call.cancel()
        self._call = call
        reply = step_wire.decode_worker_message(cast(step_wire.pb.WorkerMessage, answer))
        if not isinstance(reply, HelloReply):
            raise WorkerGone("the worker answered Hello with something else")
        return reply

    async def send(self, command: StepCommand) -> None:
        """Write a command; a broken connection is mended by ``reports``, which sends it again."""
        limit_ms = round(1000 * self._deadline.limit_s(sum(command.row_num_tokens)))
        command = replace(command, max_duration_ms=limit_ms)
        async with self._writing:
            if not self._unanswered:
                self._owed_s = 0.0
            self._unanswered.append(command)
            await self._write(command)

    async def _write(self, command: StepCommand) -> None:
        assert self._call is not None, "open() comes first"
        # The reader sees the same end of the stream, and acts on it.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(step_wire.encode_lane_message(command))

    async def reports(self) -> AsyncIterator[StepReport]:
        """Yield reports as they come. Raises WorkerGone when there will be no more."""
        while True:
            report = await self._read()
            if report is None:
                await self._reconnect()
                continue
            if self._unanswered and report.step == self._unanswered[0].step:
                command = self._unanswered.popleft()
                self._deadline.observe(sum(command.row_num_tokens), report.duration_us)
                self._owed_s = 0.0
            yield report

    async def _read(self) -> StepReport | None:
        """Return the next report, or None where the connection is lost but may come back."""
        assert self._call is not None, "open() comes first"
        try:
            answer = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            code, details = await self._call.code(), await self._call.details()
            if code is grpc.StatusCode.ABORTED:
                raise WorkerCrashed(details)
            if code is not grpc.StatusCode.UNAVAILABLE:
                kind = WorkerRefuses if code in REFUSALS else WorkerGone
                raise kind(f"the worker ended the stream: {code.name}: {details}")
            if "timeout" in details:  # gRPC's own pings were not answered
                raise WorkerGone(f"it answers nothing: hung ({details})")
            return None
        message = step_wire.decode_worker_message(cast(step_wire.pb.WorkerMessage, answer))
        if not isinstance(message, StepReport):
            raise WorkerGone("the worker sent a second Hello")
        return message

    async def _reconnect(self) -> None:
        assert self._hello is not None, "open() comes first"
        async with self._writing:
            for wait_s in RECONNECT_WAITS_S:
                with contextlib.suppress(WorkerSilent):
                    await self._connect(self._hello)
                    break
                await asyncio.sleep(wait_s)
            else:
                await self._connect(self._hello)
            for command in self._unanswered:
                await self._write(command)

    async def watch(self) -> None:
        """Raise WorkerGone when a report is overdue.

        Time in which this process itself stood still does not count: reports may have come.
        """
        interval_s = self._deadline.least_s / NUM_LOOKS
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(interval_s)
            elapsed_s = time.monotonic() - looked_s
            looked_s += elapsed_s
            self._owed_s += min(elapsed_s, 2 * interval_s)
            if self._unanswered and self._owed_s > self._unanswered[0].max_duration_ms / 1000:
                step = self._unanswered[0].step
                raise WorkerGone(f"no report of step {step} for {self._owed_s:.1f} s: hung")

    async def close(self) -> None:
        """Cancel the stream and close the channel."""
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()


def _hello_failure(code: grpc.StatusCode, details: str) -> WorkerGone:
    if code is grpc.StatusCode.ABORTED:
        return WorkerCrashed(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return WorkerSilent(f"no answer to Hello: {details}")
    return WorkerGone(f"Hello was refused: {details}")
