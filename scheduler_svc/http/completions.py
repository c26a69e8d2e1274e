"""``/v1/completions``: prompts to texts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.http import sse
from scheduler_svc.http.call import Answer, Call
from scheduler_svc.http.choice import Collected, collect_all
from scheduler_svc.http.completion_form import CompletionForm, whole
from scheduler_svc.http.completion_stream import CompletionStream
from scheduler_svc.http.errors import api_error, invalid, json_response
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.parameters import COMPLETION, check
from scheduler_svc.http.prompts import prompts_of
from scheduler_svc.http.resume import place_of, resumed
from scheduler_svc.http.sampling import priority_of, sampling_of
from scheduler_svc.http.structure import names_of_structure, structured_of
from scheduler_svc.http.usage import UsageShown
from scheduler_svc.http.values import boolean, integer, text
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.sampling import MAX_LOGPROBS, MAX_OUTPUTS

DEFAULT_MAX_TOKENS = 16
_NAMES = {"prompt_token_ids": "prompt"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A completion as it was asked for: a job for each prompt, and how the answer looks."""

    requests: list[Request]
    form: CompletionForm


class Completions:
    """Answers completions, streamed or not."""

    def __init__(self, front_end: FrontEnd, streams: sse.OpenStreams) -> None:
        self._front_end = front_end
        self._streams = streams

    async def __call__(self, call: Call) -> Answer:
        """Return the response. Raises ApiError."""
        try:
            asked = await self._asked(call)
            if not boolean(call.body, "stream"):
                return json_response(whole(asked.form, await self._collected(call, asked)))
            return await self._stream(call, asked)
        except Exception as error:
            raise api_error(error, {**_NAMES, **names_of_structure(call.body)}) from error

    async def complete(self, call: Call) -> dict[str, Any]:
        """Return the whole answer, as an object. Raises ApiError."""
        try:
            asked = await self._asked(call)
            return whole(asked.form, await self._collected(call, asked))
        except Exception as error:
            raise api_error(error, {**_NAMES, **names_of_structure(call.body)}) from error

    async def _collected(self, call: Call, asked: Asked) -> Sequence[Collected]:
        jobs = self._jobs(call, asked.requests)
        return await collect_all(jobs, asked.form.num_outputs)

    async def _stream(self, call: Call, asked: Asked) -> Answer:
        place = place_of(call, asked.form.num_outputs) if len(asked.requests) == 1 else None
        if place is None:
            jobs = self._jobs(call, asked.requests)
        else:
            jobs = [resumed(call, self._front_end.model, place, place.num_tokens)]
        has_ids = call.can_resume and len(jobs) == 1
        stream = CompletionStream(self._front_end, asked.form, place, has_ids=has_ids)
        chunks = await stream.begin(jobs)
        return sse.EventStream(chunks, self._streams)

    def _jobs(
        self, call: Call, requests: Sequence[Request]
    ) -> list[AsyncGenerator[StreamEvent, None]]:
        return [call.jobs.generate(each, grace_s=call.grace_s) for each in requests]

    async def _asked(self, call: Call) -> Asked:
        body = call.body
        check(body, COMPLETION)
        prompts = prompts_of(body.get("prompt"))
        logprobs = integer(body, "logprobs", 0, MAX_LOGPROBS)
        echo = boolean(body, "echo")
        if echo and logprobs is not None:
            raise invalid("echo", "is not supported together with logprobs: a prompt has none here")
        form = CompletionForm(
            model=self._front_end.model,
            num_outputs=integer(body, "n", 1, MAX_OUTPUTS) or 1,
            echoes=[await self._echo(prompt) for prompt in prompts] if echo else [],
            names=TokenNames(await self._front_end.texts.tokens())
            if logprobs is not None
            else None,
            prompts=await self._shown_ids(call, prompts),
            usage=UsageShown.of(body),
        )
        requests = [await self._request(call, prompts, at, logprobs) for at in range(len(prompts))]
        if len(requests) > 1:
            # All of them, before any is stored and counted.
            call.jobs.check_number("prompt", len(requests))
            for request in requests:
                await call.jobs.check(request)
        return Asked(requests, form)

    async def _request(
        self, call: Call, prompts: list[str | list[int]], position: int, logprobs: int | None
    ) -> Request:
        body, prompt = call.body, prompts[position]
        if isinstance(prompt, str) and not boolean(body, "add_special_tokens", default=True):
            prompt = await self._front_end.texts.ids(prompt, add_special_tokens=False)
        max_tokens = body.get("max_tokens")
        max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
        return Request(
            prompt=prompt if isinstance(prompt, str) else "",
            prompt_token_ids=prompt if isinstance(prompt, list) else None,
            sampling=sampling_of(body, max_tokens, logprobs, structured_of(body)),
            model=text(body, "model"),
            priority=priority_of(body),
            tenant=call.tenant,
            idempotency_key=f"{call.key}#{position}" if call.key and position else call.key,
            deadline_s=body.get("deadline_s") or 0.0,
            cancel_on_disconnect=True,
        )

    async def _shown_ids(self, call: Call, prompts: list[str | list[int]]) -> list[list[int]]:
        if not boolean(call.body, "return_token_ids"):
            return []
        special = boolean(call.body, "add_special_tokens", default=True)
        texts = self._front_end.texts
        return [
            await texts.ids(each, add_special_tokens=special) if isinstance(each, str) else each
            for each in prompts
        ]

    async def _echo(self, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        return await self._front_end.texts.text(prompt, "prompt")
