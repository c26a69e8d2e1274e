"""Batch lines in OpenAI's form, as vLLM's run-batch takes them: requests, and their results.

An input line is {"custom_id", "method": "POST", "url", "body"}; an output line is {"id",
"custom_id", "response": {"status_code", "request_id", "body"}, "error"}. Of a body's fields
that are OpenAI's or vLLM's all are either heeded, or of no consequence here, or refused by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from stepserve.client.completion import Completion, Output
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import Request
from stepserve.protocol.inference_json import request_from_json

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
# What vLLM and OpenAI give to a completion that names no max_tokens.
TEXT_MAX_TOKENS = 16

_SAMPLING = frozenset(
    {
        "frequency_penalty",
        "ignore_eos",
        "logit_bias",
        "max_tokens",
        "min_p",
        "min_tokens",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop_token_ids",
        "structured_outputs",
        "temperature",
        "top_k",
        "top_p",
    }
)
_REQUEST = frozenset({"model", "tenant", "idempotency_key", "deadline_s"})
# They change nothing of what is computed here.
_IDLE = frozenset({"metadata", "service_tier", "store", "stream_options", "user"})
# These may say what holds anyway.
_HOLDS: Mapping[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "best_of": (1,),
    "echo": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
}

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
}


def is_openai(payload: Mapping[str, Any]) -> bool:
    """Whether a line is in this form rather than in our own."""
    return "body" in payload or "url" in payload


def request_of(payload: Mapping[str, Any]) -> Request:
    """Return the request of a line. Raises InvalidRequest naming the field that is wrong."""
    if unknown := payload.keys() - {"custom_id", "method", "url", "body"}:
        raise InvalidRequest(sorted(unknown)[0], "there is no such field")
    if payload.get("method", "POST") != "POST":
        raise InvalidRequest("method", "must be POST")
    url, body = payload.get("url"), payload.get("body")
    if url not in (CHAT_URL, TEXT_URL):
        raise InvalidRequest("url", f"must be {CHAT_URL} or {TEXT_URL}")
    if not isinstance(body, dict):
        raise InvalidRequest("body", "must be an object")
    try:
        return request_from_json(_chat(body) if url == CHAT_URL else _text(body))
    except InvalidRequest as error:
        problem = str(error).removeprefix(f"{error.field}: ")
        raise InvalidRequest(f"body.{error.field.removeprefix('sampling.')}", problem) from None


def kept_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a line's payload its result is made with, which is little of it."""
    body = payload.get("body")
    model = body.get("model", "") if isinstance(body, dict) else ""
    kept = {name: payload[name] for name in ("custom_id", "url") if name in payload}
    return {**kept, "body": {"model": model}} if is_openai(payload) else kept


def result_of(payload: Mapping[str, Any], completion: Completion) -> dict[str, Any]:
    """Return the output line of a job that has ended."""
    is_chat = payload["url"] == CHAT_URL
    choice = _chat_choice if is_chat else _text_choice
    usage = completion.usage
    body = {
        "id": completion.job_id,
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": payload["body"].get("model", ""),
        "choices": [choice(output) for output in completion.outputs],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }
    response = {"status_code": 200, "request_id": completion.job_id, "body": body}
    return _line(payload, completion.job_id, response, None)


def failure_of(payload: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output line of what failed; ``error`` has a status's code and a message."""
    status = _HTTP.get(error["code"], 500)
    body = {"error": {"message": error["message"], "type": error["code"], "code": status}}
    response = {"status_code": status, "request_id": "", "body": body}
    return _line(payload, "", response, dict(error))


def _line(
    payload: Mapping[str, Any], job_id: str, response: Mapping[str, Any], error: Any
) -> dict[str, Any]:
    custom_id = payload.get("custom_id")
    return {"id": job_id, "custom_id": custom_id, "response": response, "error": error}


def _chat(body: Mapping[str, Any]) -> dict[str, Any]:
    own: dict[str, Callable[[Any], dict[str, Any]]] = {
        "messages": lambda value: {"messages": _messages(value)},
        "chat_template_kwargs": lambda value: {"chat_template_kwargs": value},
        "response_format": _format,
        "max_completion_tokens": lambda value: {"max_tokens": value},
        "logprobs": lambda value: _chat_logprobs(value, body.get("top_logprobs")),
        "top_logprobs": lambda value: _chat_logprobs(body.get("logprobs"), value),
    }
    return _fields(body, own)


def _text(body: Mapping[str, Any]) -> dict[str, Any]:
    own: dict[str, Callable[[Any], dict[str, Any]]] = {
        "prompt": _prompt,
        "response_format": _format,
        "logprobs": lambda value: {"logprobs": value},
    }
    found = _fields(body, own)
    return {**found, "sampling": {"max_tokens": TEXT_MAX_TOKENS, **found["sampling"]}}


def _fields(
    body: Mapping[str, Any], own: Mapping[str, Callable[[Any], dict[str, Any]]]
) -> dict[str, Any]:
    """Return our names of a body's fields. Raises InvalidRequest for one that is not heeded."""
    request: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _IDLE:
            continue
        if name in own:
            found = own[name](value)
            (sampling if found.keys() <= {*_SAMPLING, "logprobs"} else request).update(found)
        elif name == "priority":
            # As vLLM has it the lowest goes first; what is no number is refused later.
            request[name] = -value if type(value) is int else value
        elif name == "stop":
            sampling["stop"] = [value] if isinstance(value, str) else value
        elif name in _SAMPLING:
            sampling[name] = value
        elif name in _REQUEST:
            request[name] = value
        elif value not in _HOLDS.get(name, ()):
            raise InvalidRequest(name, "is not supported here")
    if sampling.get("top_k") == -1:
        sampling["top_k"] = 0  # as vLLM says that all are kept
    return {**request, "sampling": sampling}


def _format(value: Any) -> dict[str, Any]:
    """Return what OpenAI's format of an answer asks for, which ``structured_outputs`` has too."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"structured_outputs": {"json_object": True}}
    described = value.get("json_schema") if isinstance(value, dict) else None
    if kind != "json_schema" or not isinstance(described, dict):
        raise InvalidRequest("response_format", "must be of type text, json_object or json_schema")
    return {"structured_outputs": {"json": described.get("schema")}}


def _prompt(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"prompt": value}
    if isinstance(value, list) and all(type(entry) is int for entry in value):
        return {"prompt_token_ids": value}
    raise InvalidRequest("prompt", "must be a text or a list of token ids: one prompt a line")


def _messages(value: Any) -> Any:
    if not isinstance(value, list):
        return value  # refused by its type
    return [_message(entry, f"messages[{i}]") for i, entry in enumerate(value)]


def _message(message: Any, path: str) -> Any:
    if not isinstance(message, dict):
        return message
    if unknown := message.keys() - {"role", "content", "name"}:
        raise InvalidRequest(f"{path}.{sorted(unknown)[0]}", "is not supported here")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(part, f"{path}.content[{i}]") for i, part in enumerate(content))
    role = message.get("role")
    # Templates know OpenAI's newer name by its older one.
    return {"role": "system" if role == "developer" else role, "content": content}


def _part(part: Any, path: str) -> str:
    is_text = isinstance(part, dict) and part.get("type") == "text"
    if not is_text or not isinstance(part.get("text"), str):
        raise InvalidRequest(path, "only parts of type text are supported here")
    return str(part["text"])


def _chat_logprobs(wanted: Any, num_top: Any) -> dict[str, Any]:
    if wanted is not None and not isinstance(wanted, bool):
        raise InvalidRequest("logprobs", "must be true or false")
    if num_top and not wanted:
        raise InvalidRequest("top_logprobs", "needs logprobs")
    return {"logprobs": num_top or 0} if wanted else {}


def _chat_choice(output: Output) -> dict[str, Any]:
    message = {"role": "assistant", "content": output.text}
    content = [
        {
            **_likelihood(token_id, entry.logprob),
            "top_logprobs": [_likelihood(*each) for each in entry.top],
        }
        for token_id, entry in zip(output.token_ids, output.logprobs, strict=False)
    ]
    logprobs = {"content": content} if content else None
    return {**_choice(output), "message": message, "logprobs": logprobs}


def _text_choice(output: Output) -> dict[str, Any]:
    logprobs = {
        "tokens": [_name(token_id) for token_id in output.token_ids],
        "token_logprobs": [entry.logprob for entry in output.logprobs],
        "top_logprobs": [
            {_name(token_id): logprob for token_id, logprob in entry.top}
            for entry in output.logprobs
        ],
    }
    return {
        **_choice(output),
        "text": output.text,
        "logprobs": logprobs if output.logprobs else None,
    }


def _choice(output: Output) -> dict[str, Any]:
    return {"index": output.index, "finish_reason": output.finish_reason}


def _likelihood(token_id: int, logprob: float) -> dict[str, Any]:
    return {"token": _name(token_id), "logprob": logprob, "bytes": None}


def _name(token_id: int) -> str:
    """As vLLM names tokens by their ids; how each is spelt alone, only the service knows."""
    return f"token_id:{token_id}"
