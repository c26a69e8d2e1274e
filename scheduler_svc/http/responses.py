"""``/v1/responses``: answers that can be asked for again, and go on without their client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from scheduler_svc.frontend.front_ends import FrontEnds
from scheduler_svc.frontend.own_jobs import OwnJobs
from scheduler_svc.frontend.texts import Conversation
from scheduler_svc.http import sse
from scheduler_svc.http.call import Answer, Call
from scheduler_svc.http.chat import options_of
from scheduler_svc.http.errors import (
    ApiError,
    api_error,
    invalid,
    json_response,
    not_again,
    not_found,
)
from scheduler_svc.http.ids import RESPONSE, public_id, uuid_of
from scheduler_svc.http.merge import begun
from scheduler_svc.http.parameters import RESPONSE as PARAMETERS
from scheduler_svc.http.parameters import check
from scheduler_svc.http.response_form import response, status_of
from scheduler_svc.http.response_input import input_messages, item_messages
from scheduler_svc.http.response_items import ResponseItems
from scheduler_svc.http.response_record import ResponseRecord, decode_record
from scheduler_svc.http.response_shown import shown_of
from scheduler_svc.http.response_stream import ResponseStream
from scheduler_svc.http.sampling import priority_of, sampling_of
from scheduler_svc.http.structure import TEXT_FORMAT, answer_of, names_of_structure
from scheduler_svc.http.tools import names_of, tools_of
from scheduler_svc.http.values import boolean, mapping, text
from scheduler_svc.text.speech import manner_of
from stepserve.protocol.errors import NotFound
from stepserve.protocol.inference import JobInfo, Request, StreamEvent

_NAMES = {"prompt_token_ids": "input", "messages": "input", "max_tokens": "max_output_tokens"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A response as it was asked for: its job, and what is kept with it."""

    request: Request
    record: ResponseRecord


class Responses:
    """Makes responses and tells of them. All state is the job's own: any replica can.

    One may go on from another model's.
    """

    def __init__(self, front_end: FrontEnds, streams: sse.OpenStreams) -> None:
        self._front_end = front_end
        self._streams = streams

    async def create(self, call: Call) -> Answer:
        """Make one. Raises ApiError."""
        try:
            asked = await self._asked(call)
            if asked.record.is_background:
                submitted = await call.jobs.submit(asked.request, asked.record.encode())
                job_id = submitted.job_id
                if not boolean(call.body, "stream"):
                    return json_response(await self._whole(job_id, call.jobs))
                return await self._stream(job_id, call)
            if not boolean(call.body, "stream"):
                return json_response(await self._complete(call, asked))
            events = self._generate(call, asked)
            [job_id] = await begun([events])
            chunks = ResponseStream(self._front_end, asked.record).chunks(job_id, events)
            return sse.EventStream(chunks, self._streams)
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    async def complete(self, call: Call) -> dict[str, Any]:
        """Return a whole one, as an object. Raises ApiError."""
        try:
            return await self._complete(call, await self._asked(call))
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    async def get(self, response_id: str, jobs: OwnJobs) -> dict[str, Any]:
        """Return how it stands. Raises ApiError where it is not known."""
        return await self._whole(await _job_of(response_id, jobs), jobs)

    async def follow(self, response_id: str, call: Call, after: str) -> Answer:
        """Stream its events after number ``after``, or from its beginning. Raises ApiError."""
        number = after or call.last_event_id
        if number and not (number.isascii() and number.isdigit() and len(number) <= 15):
            raise invalid("starting_after", "must be an event's sequence_number")
        job_id = await _job_of(response_id, call.jobs)
        return await self._stream(job_id, call, int(number) if number else -1)

    async def cancel(self, response_id: str, jobs: OwnJobs) -> dict[str, Any]:
        """End one that runs in the background. Raises ApiError."""
        job_id = await _job_of(response_id, jobs)
        record, _ = await self._known(job_id, jobs)
        if not record.is_background:
            raise ApiError(400, "only responses in the background can be cancelled")
        await jobs.cancel(job_id)
        return await self._whole(job_id, jobs)

    async def delete(self, response_id: str, jobs: OwnJobs) -> dict[str, Any]:
        """Forget one for good; what goes on is cancelled first. Raises ApiError."""
        job_id = await _job_of(response_id, jobs)
        await self._known(job_id, jobs)
        await jobs.delete(job_id)
        return {"id": response_id, "object": "response.deleted", "deleted": True}

    async def _stream(self, job_id: str, call: Call, after: int = -1) -> Answer:
        record, _ = await self._known(job_id, call.jobs)
        events = call.jobs.events(job_id)
        chunks = ResponseStream(self._front_end, record, after).chunks(job_id, events)
        return sse.EventStream(chunks, self._streams)

    async def _complete(self, call: Call, asked: Asked) -> dict[str, Any]:
        events = self._generate(call, asked)
        [job_id] = await begun([events])
        try:
            return await self._told(job_id, asked.record, events)
        except Exception as error:
            raise not_again(error) from error

    def _generate(self, call: Call, asked: Asked) -> AsyncGenerator[StreamEvent, None]:
        edge = asked.record.encode()
        return call.jobs.generate(asked.request, edge, grace_s=call.grace_s)

    async def _whole(self, job_id: str, jobs: OwnJobs) -> dict[str, Any]:
        record, job = await self._known(job_id, jobs)
        if job.state != "ended":
            return response(record, job)
        return await self._told(job_id, record, jobs.events(job_id))

    async def _told(
        self, job_id: str, record: ResponseRecord, events: AsyncGenerator[StreamEvent, None]
    ) -> dict[str, Any]:
        """Return it once it has ended."""
        items = ResponseItems(job_id, record.manner, record.one_call)
        finish, usage = None, None
        async with aclosing(events) as following:
            async for event in following:
                items.feed(event.text)
                finish, usage = event.finish or finish, event.usage or usage
        if finish is not None:
            items.finish("completed" if status_of(finish) == "completed" else "incomplete")
        return response(record, await self._front_end.get(job_id), finish, items.items, usage)

    async def _known(self, job_id: str, jobs: OwnJobs) -> tuple[ResponseRecord, JobInfo]:
        response_id = public_id(RESPONSE, job_id)
        try:
            job, edge = await jobs.with_edge(job_id)
        except NotFound:
            raise _not_known(response_id) from None
        record = decode_record(edge, response_id)
        if not record.is_stored:
            raise _not_known(response_id)
        return record, job

    async def _asked(self, call: Call) -> Asked:
        body = call.body
        check(body, PARAMETERS)
        tools = tools_of(body)
        messages = [*await self._previous(call), *input_messages(body)]
        instructions = text(body, "instructions")
        told = [{"role": "system", "content": instructions}] if instructions else []
        texts = self._front_end.of(text(body, "model")).texts
        conversation = Conversation([*told, *messages], tools, _options(body))
        rendered = await texts.render(conversation)
        manner = manner_of(await texts.chat_template_source(), rendered.text, names_of(tools))
        record = ResponseRecord(shown_of(body), messages, manner)
        if record.is_background and not record.is_stored:
            raise invalid("store", "must be true for a response in the background")
        request = Request(
            prompt_token_ids=rendered.token_ids,
            sampling=sampling_of(
                body,
                body.get("max_output_tokens"),
                structured=answer_of(body, manner, tools, TEXT_FORMAT),
            ),
            model=text(body, "model"),
            priority=priority_of(body),
            tenant=call.tenant,
            idempotency_key=call.key,
            deadline_s=body.get("deadline_s") or 0.0,
            cancel_on_disconnect=not record.is_background,
        )
        return Asked(request, record)

    async def _previous(self, call: Call) -> list[Mapping[str, Any]]:
        """Return the conversation so far, where the request goes on from another response."""
        previous_id = text(call.body, "previous_response_id")
        if not previous_id:
            return []
        job_id = await _job_of(previous_id, call.jobs, "previous_response_id")
        record, job = await self._known(job_id, call.jobs)
        if job.state != "ended":
            raise invalid("previous_response_id", "has not ended yet")
        told = await self._told(job_id, record, call.jobs.events(job_id))
        return [*record.messages, *item_messages(told["output"])]


async def _job_of(response_id: str, jobs: OwnJobs, param: str | None = None) -> str:
    """Return a response's job. Raises ApiError where there is none."""
    job_id = await jobs.find(uuid_of(RESPONSE, response_id, param))
    if not job_id:
        raise _not_known(response_id, param)
    return job_id


def _not_known(response_id: str, param: str | None = None) -> ApiError:
    return not_found(f"response {response_id[:100]!r}", param)


def _names(body: Mapping[str, Any]) -> dict[str, str]:
    return {**_NAMES, **names_of_structure(body, TEXT_FORMAT)}


def _options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request says to its chat template."""
    effort = mapping(body, "reasoning").get("effort")
    given = {"chat_template_kwargs": body.get("chat_template_kwargs"), "reasoning_effort": effort}
    return options_of(given)
