"""``/v1/chat/completions``: conversations to answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler_svc.frontend.front_end import FrontEnd
from scheduler_svc.frontend.texts import Conversation, Rendered
from scheduler_svc.frontend.validate import check_template_names
from scheduler_svc.http import sse
from scheduler_svc.http.call import Answer, Call
from scheduler_svc.http.chat_form import ChatForm, whole
from scheduler_svc.http.chat_stream import ChatStream
from scheduler_svc.http.choice import collect_all
from scheduler_svc.http.errors import api_error, invalid, json_response
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.messages import messages_of
from scheduler_svc.http.parameters import CHAT, check
from scheduler_svc.http.prompt_form import PromptForm, num_listed
from scheduler_svc.http.resume import place_of, resumed
from scheduler_svc.http.sampling import priority_of, sampling_of
from scheduler_svc.http.structure import answer_of, names_of_structure
from scheduler_svc.http.tools import names_of, tools_of
from scheduler_svc.http.usage import UsageShown
from scheduler_svc.http.values import boolean, integer, mapping, text
from scheduler_svc.text.speech import manner_of
from stepserve.protocol.inference import Request, StreamEvent
from stepserve.protocol.sampling import MAX_LOGPROBS, MAX_OUTPUTS, SamplingParams


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat's answer as it was asked for: its job, and how it looks."""

    request: Request
    form: ChatForm


class Chat:
    """Answers chats, streamed or not."""

    def __init__(self, front_end: FrontEnd, streams: sse.OpenStreams) -> None:
        self._front_end = front_end
        self._streams = streams

    async def __call__(self, call: Call) -> Answer:
        """Return the response. Raises ApiError."""
        if not boolean(call.body, "stream"):
            answer = await self.complete(call)
            if "prompt_logprobs" in answer:
                return await asyncio.to_thread(json_response, answer)
            return json_response(answer)
        try:
            asked = await self._asked(call)
            place = place_of(call, asked.form.num_outputs)
            job = self._job(call, asked)
            if place is not None:
                # From its beginning, since what a text means is told by all that is before it.
                job = resumed(call, self._front_end.model, place, ())
            stream = ChatStream(self._front_end, asked.form, place, has_ids=call.can_resume)
            chunks = await stream.begin(job)
            return sse.EventStream(chunks, self._streams)
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    async def complete(self, call: Call) -> dict[str, Any]:
        """Return the whole answer, as an object. Raises ApiError."""
        try:
            asked = await self._asked(call)
            [job] = await collect_all([self._job(call, asked)], asked.form.num_outputs)
            if asked.form.scored is not None:
                # A long prompt's take long to write.
                return await asyncio.to_thread(whole, asked.form, job)
            return whole(asked.form, job)
        except Exception as error:
            raise api_error(error, _names(call.body)) from error

    def _job(self, call: Call, asked: Asked) -> AsyncGenerator[StreamEvent, None]:
        return call.jobs.generate(asked.request, grace_s=call.grace_s)

    async def _asked(self, call: Call) -> Asked:
        body = call.body
        check(body, CHAT)
        logprobs = _logprobs(body)
        tools = tools_of(body)
        texts = self._front_end.texts
        rendered = await texts.render(Conversation(messages_of(body), tools, options_of(body)))
        rendered = await self._with_special_tokens(body, rendered)
        names = TokenNames(await texts.tokens())
        form = ChatForm(
            model=self._front_end.model,
            num_outputs=integer(body, "n", 1, MAX_OUTPUTS) or 1,
            manner=manner_of(await texts.chat_template_source(), rendered.text, names_of(tools)),
            names=names if logprobs is not None else None,
            scored=None
            if num_listed(body) is None
            else PromptForm(names, rendered.token_ids, is_listed=True),
            prompt_ids=rendered.token_ids if boolean(body, "return_token_ids") else None,
            usage=UsageShown.of(body),
            shows_reasoning=boolean(body, "include_reasoning", default=True),
            one_call=not boolean(body, "parallel_tool_calls", default=True),
        )
        sampling = sampling_of(
            body,
            body.get(_max_tokens_name(body)),
            logprobs,
            answer_of(body, form.manner, tools),
            num_listed(body),
        )
        return Asked(self._request(call, rendered, sampling), form)

    async def _with_special_tokens(self, body: Mapping[str, Any], rendered: Rendered) -> Rendered:
        if not boolean(body, "add_special_tokens"):
            return rendered
        return Rendered(rendered.text, await self._front_end.texts.ids(rendered.text))

    def _request(self, call: Call, rendered: Rendered, sampling: SamplingParams) -> Request:
        body = call.body
        return Request(
            prompt_token_ids=rendered.token_ids,
            sampling=sampling,
            model=text(body, "model"),
            priority=priority_of(body),
            tenant=call.tenant,
            idempotency_key=call.key,
            deadline_s=body.get("deadline_s") or 0.0,
            cancel_on_disconnect=True,
        )


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a request says to its chat template."""
    options = dict(mapping(body, "chat_template_kwargs"))
    check_template_names(options)
    if body.get("reasoning_effort") is not None:
        options["reasoning_effort"] = text(body, "reasoning_effort")
    if boolean(body, "continue_final_message"):
        if boolean(body, "add_generation_prompt"):
            raise invalid("continue_final_message", "not together with add_generation_prompt")
        return {**options, "continue_final_message": True, "add_generation_prompt": False}
    if not boolean(body, "add_generation_prompt", default=True):
        options["add_generation_prompt"] = False
    return options


def _logprobs(body: Mapping[str, Any]) -> int | None:
    """Return how many of the likeliest tokens are shown in each place, None for nothing."""
    top = integer(body, "top_logprobs", 0, MAX_LOGPROBS)
    if not boolean(body, "logprobs"):
        if top:
            raise invalid("top_logprobs", "needs logprobs to be true")
        return None
    return top or 0


def _max_tokens_name(body: Mapping[str, Any]) -> str:
    is_new = body.get("max_completion_tokens") is not None
    return "max_completion_tokens" if is_new else "max_tokens"


def _names(body: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prompt_token_ids": "messages",
        "max_tokens": _max_tokens_name(body),
        "logprobs": "top_logprobs",
        **names_of_structure(body),
    }
