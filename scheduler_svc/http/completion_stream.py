"""A completion as a stream of chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.http import sse
from scheduler_svc.http.choice import checked
from scheduler_svc.http.completion_form import CompletionForm, is_beginning
from scheduler_svc.http.merge import begun, merged
from scheduler_svc.http.resume import Place
from scheduler_svc.http.usage import RunningUsage, running_usage
from stepserve.protocol.inference import StreamEvent


class CompletionStream:
    """Makes chunks of jobs' events. ``place``: what the client has read of it already.

    ``has_ids``: they say their places, for one job only: of several it would be as long as all.
    """

    def __init__(
        self, front_end: FrontEnd, form: CompletionForm, place: Place | None, *, has_ids: bool
    ) -> None:
        self._front_end = front_end
        self._form = form
        self._place = place
        self._has_ids = has_ids

    async def begin(
        self, jobs: Sequence[AsyncGenerator[StreamEvent, None]]
    ) -> AsyncGenerator[bytes, None]:
        """Return the chunks, once all jobs are stored. Raises what storing them raises."""
        job_ids = await begun(jobs)
        usage = await running_usage(self._form.usage, self._front_end, job_ids)
        return self._chunks(jobs, job_ids, usage)

    async def _chunks(
        self,
        jobs: Sequence[AsyncGenerator[StreamEvent, None]],
        job_ids: Sequence[str],
        usage: RunningUsage,
    ) -> AsyncGenerator[bytes, None]:
        form = self._form
        envelope = form.envelope(job_ids[0])
        positions = {job_id: position for position, job_id in enumerate(job_ids)}
        places = [self._place or Place.start(job_id, form.num_outputs) for job_id in job_ids]
        async with aclosing(merged(jobs)) as news:
            async for event in news:
                checked(event)
                position = positions[event.job_id]
                place = places[position]
                chars = place.num_chars[event.index]
                if form.scored and is_beginning(event, chars):
                    # A long prompt's log-probabilities take long to write.
                    choice = await asyncio.to_thread(form.choice, position, event, chars)
                else:
                    choice = form.choice(position, event, chars)
                place.advance(event)
                usage.add(position, event)
                event_id = place.event_id if self._has_ids else ""
                data = sse.event({**envelope, "choices": [choice], **usage.running()}, event_id)
                del event, choice  # What is kept for a client that does not read is bounded.
                yield data
        if usage.shown.at_end:
            yield sse.event({**envelope, "choices": [], "usage": usage.final()})
        yield sse.DONE
