"""A chat's answer as a stream of chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.http import sse
from scheduler_svc.http.chat_form import ChatForm, reason
from scheduler_svc.http.choice import checked
from scheduler_svc.http.merge import begun
from scheduler_svc.http.resume import Place
from scheduler_svc.http.usage import RunningUsage, running_usage
from scheduler_svc.text.speech import Speech
from stepserve.protocol.inference import StreamEvent


class ChatStream:
    """Makes a chunk of each event. ``place``: what the client has read of it already.

    What was read is taken apart again, as its text was, and not sent. ``has_ids``: chunks say
    their places.
    """

    def __init__(
        self, front_end: FrontEnd, form: ChatForm, place: Place | None, *, has_ids: bool
    ) -> None:
        self._front_end = front_end
        self._form = form
        self._read = place
        self._has_ids = has_ids
        self._speeches = [Speech(form.manner) for _ in range(form.num_outputs)]
        self._has_role = [False] * form.num_outputs

    async def begin(self, job: AsyncGenerator[StreamEvent, None]) -> AsyncGenerator[bytes, None]:
        """Return the chunks, once the job is stored. Raises what storing it raises."""
        [job_id] = await begun([job])
        usage = await running_usage(self._form.usage, self._front_end, [job_id])
        return self._chunks(job, job_id, usage)

    async def _chunks(
        self, job: AsyncGenerator[StreamEvent, None], job_id: str, usage: RunningUsage
    ) -> AsyncGenerator[bytes, None]:
        form = self._form
        envelope = form.envelope(job_id, "chat.completion.chunk")
        place = Place.start(job_id, form.num_outputs)
        is_first = self._read is None
        async with aclosing(job) as events:
            async for event in events:
                checked(event)
                usage.add(0, event)
                fresh = self._unread(event, place)
                place.advance(event)
                if fresh is None:
                    continue
                choice = self._choice(fresh)
                if choice is None:
                    continue
                chunk = {**envelope, "choices": [choice], **usage.running()}
                if is_first and form.prompt_ids is not None:
                    chunk["prompt_token_ids"] = list(form.prompt_ids)
                is_first = False
                data = sse.event(chunk, place.event_id if self._has_ids else "")
                # What is kept for a client that does not read is bounded.
                del event, fresh, choice, chunk
                yield data
        if usage.shown.at_end:
            yield sse.event({**envelope, "choices": [], "usage": usage.final()})
        yield sse.DONE

    def _unread(self, event: StreamEvent, place: Place) -> StreamEvent | None:
        """Return what of an event was not read yet; None where that is nothing."""
        if self._read is None:
            return event
        index = event.index
        num_chars = max(0, self._read.num_chars[index] - place.num_chars[index])
        num_tokens = max(0, self._read.num_tokens[index] - event.offset)
        if num_chars or num_tokens:
            self._speeches[index].feed(event.text[:num_chars])
            self._has_role[index] = True
            event = replace(
                event,
                offset=event.offset + min(num_tokens, len(event.token_ids)),
                text=event.text[num_chars:],
                token_ids=event.token_ids[num_tokens:],
                logprobs=event.logprobs[num_tokens:],
            )
        return event if event.token_ids or event.text or event.finish else None

    def _choice(self, event: StreamEvent) -> dict[str, Any] | None:
        """Return the chunk's choice; None where there is nothing to tell yet."""
        form, speech = self._form, self._speeches[event.index]
        pieces = speech.feed(event.text)
        if event.finish is not None:
            pieces += speech.finish()
        delta = form.delta(event.job_id, event.index, pieces)
        tells_tokens = form.names is not None or form.prompt_ids is not None
        if not (delta or event.finish or tells_tokens):
            return None
        if not self._has_role[event.index]:
            self._has_role[event.index] = True
            delta = {"role": "assistant", "content": "", **delta}
        why = reason(event.finish_reason, speech.num_calls)
        return {
            "index": event.index,
            "delta": delta,
            "finish_reason": why or None,
            **form.extras(event),
        }
