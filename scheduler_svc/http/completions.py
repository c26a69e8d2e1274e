"""``/v1/completions``: prompts to texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.http import sse
from scheduler_svc.http.call import Answer, Call
from scheduler_svc.http.choice import collect_all
from scheduler_svc.http.completion_form import CompletionForm, whole
from scheduler_svc.http.completion_stream import CompletionStream
from scheduler_svc.http.errors import api_error, json_response
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.parameters import COMPLETION, check
from scheduler_svc.http.prompt_form import PromptForm, check_number, num_listed
from scheduler_svc.http.prompts import prompts_of
from scheduler_svc.http.resume import place_of, resumed
from scheduler_svc.http.sampling import priority_of, sampling_of
from scheduler_svc.http.structure import names_of_structure, structured_of
from scheduler_svc.http.usage import UsageShown
from scheduler_svc.http.values import boolean, integer, text
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.sampling import MAX_LOGPROBS, MAX_OUTPUTS, SamplingParams

DEFAULT_MAX_TOKENS = 16


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
                answer = await self._whole(call, asked)
                if asked.form.scored:
                    return await asyncio.to_thread(json_response, answer)
                return json_response(answer)
            return await self._stream(call, asked)
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    async def complete(self, call: Call) -> dict[str, Any]:
        """Return the whole answer, as an object. Raises ApiError."""
        try:
            asked = await self._asked(call)
            return await self._whole(call, asked)
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    async def _whole(self, call: Call, asked: Asked) -> dict[str, Any]:
        jobs = self._jobs(call, asked.requests)
        outputs = await collect_all(jobs, asked.form.num_outputs)
        if asked.form.scored:
            # A long prompt's take long to write.
            return await asyncio.to_thread(whole, asked.form, outputs)
        return whole(asked.form, outputs)

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
        form, sampling = await self._form(call, prompts), _sampling(body)
        if sampling.prompt_logprobs is not None:
            num_tokens = form.num_outputs * sum(len(each.token_ids) for each in form.scored)
            check_number(body, _scored_by(body), sampling.prompt_logprobs, num_tokens)
        requests = [
            await self._request(call, prompt, position, sampling)
            for position, prompt in enumerate(prompts)
        ]
        if len(requests) > 1:
            # All of them, before any is stored and counted.
            await call.jobs.check_all("prompt", requests)
        return Asked(requests, form)

    async def _form(self, call: Call, prompts: list[str | list[int]]) -> CompletionForm:
        body = call.body
        names = TokenNames(await self._front_end.texts.tokens())
        has_logprobs, is_listed = _num_shown(body) is not None, num_listed(body) is not None
        has_echo, has_ids = boolean(body, "echo"), boolean(body, "return_token_ids")
        is_echoed = has_echo and has_logprobs
        is_scored = is_echoed or is_listed
        ids = await self._ids(call, prompts) if has_ids or is_scored else []
        return CompletionForm(
            model=self._front_end.model,
            num_outputs=integer(body, "n", 1, MAX_OUTPUTS) or 1,
            echoes=[await self._echo(prompt) for prompt in prompts] if has_echo else [],
            names=names if has_logprobs else None,
            prompts=ids if has_ids else [],
            scored=[PromptForm(names, each, is_echoed, is_listed) for each in ids if is_scored],
            usage=UsageShown.of(body),
        )

    async def _request(
        self, call: Call, prompt: str | list[int], position: int, sampling: SamplingParams
    ) -> Request:
        body = call.body
        if isinstance(prompt, str) and not boolean(body, "add_special_tokens", default=True):
            prompt = await self._front_end.texts.ids(prompt, add_special_tokens=False)
        return Request(
            prompt=prompt if isinstance(prompt, str) else "",
            prompt_token_ids=prompt if isinstance(prompt, list) else None,
            sampling=sampling,
            model=text(body, "model"),
            priority=priority_of(body),
            tenant=call.tenant,
            idempotency_key=f"{call.key}#{position}" if call.key and position else call.key,
            deadline_s=body.get("deadline_s") or 0.0,
            cancel_on_disconnect=True,
        )

    async def _ids(self, call: Call, prompts: list[str | list[int]]) -> list[list[int]]:
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


def _num_shown(body: Mapping[str, Any]) -> int | None:
    return integer(body, "logprobs", 0, MAX_LOGPROBS)


def _sampling(body: Mapping[str, Any]) -> SamplingParams:
    max_tokens, logprobs, of_prompt = body.get("max_tokens"), _num_shown(body), num_listed(body)
    if of_prompt is None and boolean(body, "echo"):
        of_prompt = logprobs
    max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    return sampling_of(body, max_tokens, logprobs, structured_of(body), of_prompt)


def _scored_by(body: Mapping[str, Any]) -> str:
    """Return the field that asks for prompts' log-probabilities, where one does."""
    return "logprobs" if body.get("prompt_logprobs") is None else "prompt_logprobs"


def _names(body: Mapping[str, Any]) -> dict[str, str]:
    """What a request calls what it was asked for."""
    names = {"prompt_token_ids": "prompt", "prompt_logprobs": _scored_by(body)}
    return {**names, **names_of_structure(body)}
