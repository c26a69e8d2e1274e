"""A response as a stream of numbered events, from any of them on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.http import sse
from scheduler_svc.http.errors import api_error
from scheduler_svc.http.response_form import response, status_of
from scheduler_svc.http.response_items import (
    CREATED,
    IN_PROGRESS,
    STRIDE,
    ItemEvent,
    ResponseItems,
)
from scheduler_svc.http.response_record import ResponseRecord
from stepserve.protocol.inference import JobInfo, StreamEvent, Usage
from stepserve.protocol.job import Finish


class ResponseStream:
    """Tells a job's events as a response's, those after number ``after``.

    A number names a place in the text: the text before is fed apart, so that what comes after it
    is cut there as it was for whoever read the event of that number.
    """

    def __init__(self, front_end: FrontEnds, record: ResponseRecord, after: int = -1) -> None:
        self._front_end = front_end
        self._record = record
        self._after = after
        self._last = after

    async def chunks(
        self, job_id: str, events: AsyncGenerator[StreamEvent, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield a job's stream; its id was told already. An error in it is its last event."""
        try:
            async with aclosing(events):
                job = await self._front_end.get(job_id)
                async for told in self._told(job, events):
                    yield self._event(told)
        except Exception as error:
            body = api_error(error).body
            # Not a new number: who goes on after the last one misses nothing.
            fields = {**body, "type": "error", "sequence_number": max(0, self._last)}
            yield sse.event(fields, name="error")

    async def _told(
        self, job: JobInfo, events: AsyncIterator[StreamEvent]
    ) -> AsyncIterator[ItemEvent]:
        record = self._record
        begun = {"response": response(record, job)}
        items = ResponseItems(job.job_id, record.manner, record.one_call)
        split, finish, usage = self._after // STRIDE, None, None
        opening = (
            ItemEvent(CREATED, "response.created", begun),
            ItemEvent(IN_PROGRESS, "response.in_progress", begun),
        )
        for told in self._fresh(opening):
            yield told
        async for event in events:
            read = max(0, min(len(event.text), split))
            split -= read
            for told in self._fresh(items.feed(event.text[:read]) + items.feed(event.text[read:])):
                yield told
            finish, usage = event.finish or finish, event.usage or usage
        if finish is not None:
            for told in self._fresh(await self._end(job, items, finish, usage)):
                yield told

    def _fresh(self, events: Sequence[ItemEvent]) -> list[ItemEvent]:
        return [event for event in events if event.number > self._after]

    async def _end(
        self, job: JobInfo, items: ResponseItems, finish: Finish, usage: Usage | None
    ) -> list[ItemEvent]:
        status = status_of(finish)
        events = items.finish("completed" if status == "completed" else "incomplete")
        ended = await self._front_end.get(job.job_id)
        told = {"response": response(self._record, ended, finish, items.items, usage)}
        return [*events, ItemEvent(items.terminal_number, f"response.{status}", told)]

    def _event(self, told: ItemEvent) -> bytes:
        self._last = told.number
        payload: dict[str, Any] = {
            "type": told.kind,
            "sequence_number": told.number,
            **told.fields,
        }
        return sse.event(payload, str(told.number), told.kind)
