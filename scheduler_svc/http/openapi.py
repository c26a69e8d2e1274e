"""The OpenAPI document: routes and their fields, made from the tables that requests are read by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from scheduler_svc.http.parameters import (
    CHAT,
    COMPLETION,
    DETOKENIZE,
    RESPONSE,
    TOKENIZE,
    Parameter,
)
from stepserve.process.version import own_version

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TRUTH: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_OBJECT: Schema = {"type": "object"}
_IDS: Schema = {"type": "array", "items": _COUNT}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_MESSAGES: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {"anyOf": [_TEXT, {"type": "array", "items": _OBJECT}, {"type": "null"}]},
        },
    },
}
_TOOLS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"const": "function"}, "function": _OBJECT, "name": _TEXT},
    },
}
_SCHEMAS: Mapping[str, Schema] = {
    **dict.fromkeys(("model", "instructions", "previous_response_id", "reasoning_effort"), _TEXT),
    **dict.fromkeys(
        ("stream", "echo", "ignore_eos", "return_token_ids", "background", "store",
         "add_special_tokens", "return_token_strs", "parallel_tool_calls", "include_reasoning",
         "add_generation_prompt", "continue_final_message"), _TRUTH),
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty",
         "repetition_penalty", "deadline_s"), _NUMBER),
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "top_logprobs",
         "prompt_logprobs"), _COUNT),
    **dict.fromkeys(("seed", "top_k", "priority"), _INTEGER),
    **dict.fromkeys(
        ("stream_options", "logit_bias", "metadata", "chat_template_kwargs", "reasoning", "text"),
        _OBJECT),
    "messages": _MESSAGES,
    "tools": _TOOLS,
    "tool_choice": {"enum": ["none", "auto"]},
    "logprobs": {"anyOf": [_TRUTH, _COUNT]},
    "stop": {"anyOf": [_TEXT, _TEXTS]},
    "stop_token_ids": _IDS,
    "tokens": _IDS,
    "prompt": {"anyOf": [_TEXT, _IDS, _TEXTS, {"type": "array", "items": _IDS}]},
    "input": {"anyOf": [_TEXT, _MESSAGES]},
}  # fmt: skip
_NEEDED = {"prompt", "messages", "input"}
_BATCH: Schema = {
    "type": "object",
    "required": ["input_file_id", "endpoint", "completion_window"],
    "properties": {
        "input_file_id": _TEXT,
        "endpoint": _TEXT,
        "completion_window": {"const": "24h"},
        "metadata": _OBJECT,
    },
}
_FORM: Schema = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"const": "batch"}},
}


def document() -> dict[str, Any]:
    """Return the whole document."""
    posted = {
        "/v1/completions": _body(COMPLETION),
        "/v1/chat/completions": _body(CHAT),
        "/v1/responses": _body(RESPONSE),
        "/tokenize": _body(TOKENIZE, needed=()),
        "/detokenize": _body(DETOKENIZE),
        "/v1/batches": {"application/json": {"schema": _BATCH}},
        "/v1/files": {"multipart/form-data": {"schema": _FORM}},
    }
    got = (
        "/v1/models", "/v1/models/{id}", "/v1/responses/{id}", "/v1/files", "/v1/files/{id}",
        "/v1/files/{id}/content", "/v1/batches", "/v1/batches/{id}", "/health", "/ready", "/live",
        "/version",
    )  # fmt: skip
    paths: dict[str, Any] = {path: {"get": _operation(path)} for path in got}
    for path, content in posted.items():
        asked = {"required": True, "content": content}
        paths.setdefault(path, {})["post"] = {**_operation(path), "requestBody": asked}
    for path in ("/v1/responses/{id}/cancel", "/v1/batches/{id}/cancel"):
        paths[path] = {"post": _operation(path)}
    for path in ("/v1/files/{id}", "/v1/responses/{id}"):
        paths[path]["delete"] = _operation(path)
    paths["/v1/responses/{id}"]["get"]["parameters"] += [
        {"name": "stream", "in": "query", "schema": _TRUTH},
        {"name": "starting_after", "in": "query", "schema": _COUNT},
    ]
    info = {"title": "stepserve", "version": own_version()}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _operation(path: str) -> dict[str, Any]:
    given = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
    return {
        "parameters": [given] if "{id}" in path else [],
        "responses": {"default": {"description": "an answer, or an error in OpenAI's form"}},
    }


def _body(table: Mapping[str, Parameter], needed: tuple[str, ...] = tuple(_NEEDED)) -> Schema:
    used = [each.name for each in table.values() if each.kind != "refused"]
    schema = {
        "type": "object",
        "properties": {name: _SCHEMAS.get(name, {}) for name in used},
        "required": sorted(set(needed) & set(used)),
        "additionalProperties": False,
    }
    return {"application/json": {"schema": schema}}
