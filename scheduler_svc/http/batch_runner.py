"""Works on batches: one replica at a time on each, and another where that one is gone.

A line is a job under a key that names the batch and the line: who works on it anew finds it.
What came of a line is noted once, in Redis; the rest of a batch is made from these notes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic, time
from typing import Any, TypeAlias

from scheduler_svc.frontend.batches import Batch, Batches
from scheduler_svc.frontend.files import Files
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.frontend.trouble import Trouble
from scheduler_svc.http.batch_lines import answered, line_of, lines_of, numbers_of, unanswered
from scheduler_svc.http.batch_output import write_outputs
from scheduler_svc.http.batch_turns import TURN_S, Turns
from scheduler_svc.http.call import Call
from scheduler_svc.http.errors import BEGUN_ANEW, JOB_CANCELLED, api_error
from stepserve.protocol.errors import NotFound, StepserveError

log = logging.getLogger(__name__)

MAX_BATCHES_AT_ONCE = 4
# So few of a batch's jobs wait in the queue at once: others' wait behind no more than these.
MAX_LINES_AT_ONCE = 32
POLL_INTERVAL_S = 1.0
_RETRY_S = 1.0
# Among a batch's times: that it ran out of it.
_LATE = "late"
# Answers that say "not now": the line is tried again while the batch has time.
_NOT_NOW = (408, 429, 503)
_MAX_CANCELLED = 3

Complete: TypeAlias = Callable[[Call], Awaitable[dict[str, Any]]]
Later: TypeAlias = Callable[[str, str], OwnJobs]


class BatchRunner:
    """Works on what is open, in its own tasks, while ``run`` runs."""

    def __init__(
        self, batches: Batches, files: Files, complete: Mapping[str, Complete], later: Later
    ) -> None:
        """``later`` tells the jobs of who asked for a batch, by their key's name and tenant."""
        self._later = later
        self._batches = batches
        self._files = files
        self._complete = complete
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns = Turns(MAX_BATCHES_AT_ONCE)
        # Those that begin no more lines, since it is another's turn, and from when on.
        self._leaving: dict[str, float] = {}
        self._trouble = Trouble(log, "batches cannot be looked for")

    async def run(self) -> None:
        """Look for work until cancelled."""
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:
                    # Of one stored batch, as like as not: the others are worked on all the same.
                    self._trouble.is_there(error)
                else:
                    self._trouble.is_gone()
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _look(self) -> None:
        """Begin what there is room for; where another tenant's turn has come, make some."""
        self._turns.open(await self._batches.tenants(await self._batches.open_ids()))
        now_s = monotonic()
        # Lines under way may wait for long, for a model without workers: they need no place.
        for batch_id, since_s in self._leaving.items():
            if now_s - since_s >= TURN_S:
                self._turns.over(batch_id)
        for batch_id in self._turns.waiting():
            if batch_id in self._tasks:
                continue
            leaving = self._turns.leaves_for(batch_id, now_s)
            is_one_leaving = any(now_s - since_s < TURN_S for since_s in self._leaving.values())
            if not self._turns.has_room and (leaving is None or is_one_leaving):
                return
            if not await self._batches.is_ours(batch_id):
                continue  # Another replica works on it.
            if self._turns.has_room:
                self._begin(batch_id, now_s)
            elif leaving is not None:
                self._leaving[leaving] = now_s

    def _begin(self, batch_id: str, now_s: float) -> None:
        self._turns.begun(batch_id, now_s)
        task = asyncio.create_task(self._work(batch_id), name=f"batch-{batch_id}")
        self._tasks[batch_id] = task
        task.add_done_callback(partial(self._forget, batch_id))

    def _forget(self, batch_id: str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(batch_id, None)
        self._turns.over(batch_id)
        self._leaving.pop(batch_id, None)

    async def _work(self, batch_id: str) -> None:
        """Bring a batch as far as it goes; what goes wrong with us is tried again."""
        try:
            batch = await self._batches.look(batch_id)
            if batch is None or not batch.is_open:
                return
            lines = await self._lines(batch)
            if lines is None:
                return
            if batch.status in ("in_progress", "validating"):
                await self._answer_all(batch, lines)
            if batch_id in self._leaving and await self._is_left(batch, lines):
                return
            await self._end(batch_id, lines)
        except StepserveError as error:
            log.warning("batch %s waits: %s", batch_id, error)
        except Exception as error:
            log.error("batch %s failed for now", batch_id, exc_info=error)

    async def _lines(self, batch: Batch) -> list[bytes] | None:
        """Return the batch's lines; None where it has failed because of them."""
        try:
            file = await self._files.get(batch.input_file_id, batch.tenant)
            content = b"".join([piece async for piece in self._files.content(file)])
        except NotFound:
            errors = [
                {"code": "no_file", "line": None, "message": "its file is gone", "param": None}
            ]
            await self._fail(batch, errors)
            return None
        lines, errors = await asyncio.to_thread(lines_of, content, batch.endpoint)
        if errors:
            # Also of one that was cancelled before anybody looked at it.
            await self._fail(batch, errors)
            return None
        total = len(numbers_of(lines))
        await self._batches.change(batch.batch_id, lambda b: _begun(b, total))
        return lines

    async def _fail(self, batch: Batch, errors: Sequence[dict[str, Any]]) -> None:
        await self._batches.change(
            batch.batch_id, lambda b: replace(b.come_to("failed"), errors=errors)
        )

    async def _answer_all(self, batch: Batch, lines: Sequence[bytes]) -> None:
        """Answer every line that has no answer yet, until it is cancelled or out of time."""
        done = await self._batches.noted(batch.batch_id)
        waiting = [number for number in numbers_of(lines) if number not in done]
        room = asyncio.Semaphore(MAX_LINES_AT_ONCE)
        answering = asyncio.create_task(self._answer_each(batch, lines, waiting, room))
        try:
            while not answering.done():
                await asyncio.wait((answering,), timeout=POLL_INTERVAL_S)
                if not await self._goes_on(batch):
                    break
            if answering.done():
                await answering
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _is_left(self, batch: Batch, lines: Sequence[bytes]) -> bool:
        """Whether there are lines for its next turn. Raises StepserveError where not for us."""
        if not await self._goes_on(batch):
            return False
        done = await self._batches.noted(batch.batch_id)
        return not done.issuperset(numbers_of(lines))

    async def _goes_on(self, batch: Batch) -> bool:
        """Whether its lines are to be answered still. Raises StepserveError where not by us."""
        if not await self._batches.is_ours(batch.batch_id):
            raise StepserveError("another replica works on it")
        now = await self._batches.look(batch.batch_id)
        return now is not None and now.status == "in_progress" and time() < now.expires_s

    async def _answer_each(
        self,
        batch: Batch,
        lines: Sequence[bytes],
        numbers: Sequence[int],
        room: asyncio.Semaphore,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                await room.acquire()
                if batch.batch_id in self._leaving:
                    return
                task = group.create_task(self._answer(batch, lines[number - 1], number))
                task.add_done_callback(lambda _task: room.release())

    async def _answer(self, batch: Batch, raw: bytes, number: int) -> None:
        line, num_cancelled = line_of(raw, number, batch.endpoint), 0
        while True:
            # A job that was cancelled is no answer of the batch's: then another one is made.
            key = f"{batch.batch_id}/{number}/{num_cancelled}"
            status, body = await self._ask(batch, line.body, key)
            code = body["error"]["code"] if status != 200 else None
            if code == JOB_CANCELLED and num_cancelled < _MAX_CANCELLED:
                num_cancelled += 1
            # What was begun anew goes on, and is read from its beginning.
            elif code != BEGUN_ANEW and status not in _NOT_NOW:
                break
            elif batch.batch_id in self._leaving:
                return
            await asyncio.sleep(_RETRY_S)
        # Prompts' log-probabilities take long to write.
        note = await asyncio.to_thread(answered, line.custom_id, status, body)
        await self._batches.note(batch.batch_id, number, note, is_good=status == 200)

    async def _ask(
        self, batch: Batch, body: Mapping[str, Any], key: str
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body of a request's answer."""
        try:
            call = Call(body, self._later(batch.key_id, batch.tenant), key)
            return 200, await self._complete[batch.endpoint](call)
        except Exception as error:
            told = api_error(error)
            return told.status, {"error": told.body}

    async def _end(self, batch_id: str, lines: Sequence[bytes]) -> None:
        """Make the batch's files of its notes; lines without any are told to have none."""
        done = await self._batches.noted(batch_id)
        is_done = done.issuperset(numbers_of(lines))
        batch = await self._batches.change(batch_id, lambda b: _finalizing(b, is_done))
        if batch is None:
            return
        end = _end_of(batch)
        code = f"batch_{end}"
        for number in numbers_of(lines):
            if number not in done:
                custom_id = line_of(lines[number - 1], number, batch.endpoint).custom_id
                note = unanswered(custom_id, code, f"the batch was {end} before this was done")
                await self._batches.note(batch_id, number, note, is_good=False)
        output, errors = await write_outputs(self._batches, self._files, batch, numbers_of(lines))
        await self._batches.change(
            batch_id,
            lambda b: replace(b.come_to(end), output_file_id=output, error_file_id=errors),
        )


def _begun(batch: Batch, total: int) -> Batch:
    begun = batch.come_to("in_progress") if batch.status == "validating" else batch
    return replace(begun, total=total)


def _finalizing(batch: Batch, is_done: bool) -> Batch:
    """A batch that is being cancelled ends as that; it says so until it has ended."""
    if batch.status != "in_progress":
        return batch
    ending = batch.come_to("finalizing")
    late = {} if is_done else {_LATE: batch.expires_s}
    return replace(ending, times={**ending.times, **late})


def _end_of(batch: Batch) -> str:
    if "cancelling" in batch.times:
        return "cancelled"
    return "expired" if _LATE in batch.times else "completed"
