"""Every field that OpenAI's and vLLM's clients may send, and what becomes of it here.

What stands in no table is refused as OpenAI does. What is not there is refused by name, unless
its value asks for nothing: nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from scheduler_svc.http.errors import ApiError

Kind: TypeAlias = Literal["used", "accepted", "refused"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field: what is done with it, and in which values one that is refused asks for nothing."""

    name: str
    kind: Kind
    note: str = ""
    neutral: tuple[Any, ...] = ()


def _used(*names: str, note: str = "") -> tuple[Parameter, ...]:
    return tuple(Parameter(name, "used", note) for name in names)


def _accepted(*names: str, note: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, "accepted", note) for name in names)


def _refused(name: str, note: str, *neutral: Any) -> Parameter:
    return Parameter(name, "refused", note, neutral)


_GUIDED = "an older name: use structured_outputs"
_SAMPLING = (
    *_used(
        "temperature",
        "top_p",
        "seed",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
    ),
    *_used(
        "top_k",
        "min_p",
        "repetition_penalty",
        "ignore_eos",
        "stop_token_ids",
        "min_tokens",
        note="as vLLM",
    ),
    *_used(
        "structured_outputs",
        note="as vLLM: one of json, regex, choice, grammar (Lark or GBNF), json_object",
    ),
    *_used("priority", note="as vLLM: the lowest goes first; -10 to 10"),
    *_used("deadline_s", note="ours: seconds from now until the job ends, done or not"),
)
_FORMAT = _used("response_format", note="text, json_object or json_schema; strict or not")
_MANY = (*_used("n"), *_used("return_token_ids", note="as vLLM"))  # fmt: skip
_PROMPT_LOGPROBS = _used("prompt_logprobs", note="as vLLM: up to 20, and not with stream")
_STREAMED = _used("model", "stream", "stream_options")
_LABELS = _accepted(
    "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "prompt_cache_options", "request_id", "session_id",
    note="a label; prefixes are cached anyway",
)  # fmt: skip
_ABSENT = (
    _refused("length_penalty", "there is no beam search", 1, 1.0),
    _refused("use_beam_search", "there is no beam search", False),
    _refused("early_stopping", "there is no beam search", False),
    _refused("include_stop_str_in_output", "a stop string is never shown", False),
    _refused("skip_special_tokens", "special tokens have no text here", True),
    _refused("spaces_between_special_tokens", "special tokens have no text here", True),
    _refused("truncate_prompt_tokens", "a prompt that is too long is an error"),
    _refused("allowed_token_ids", "use logit_bias"),
    _refused("bad_words", "use logit_bias", []),
    _refused("logits_processors", "code of clients is not run", []),
    _refused("vllm_xargs", "code of clients is not run", {}),
    _refused("return_tokens_as_token_ids", "use return_token_ids", False),
    _refused("cache_salt", "tenants' prefixes are apart anyway"),
    _refused("kv_transfer_params", "not there"),
    _refused("ec_transfer_params", "not there"),
    _refused("logprob_token_ids", "use logprobs", []),
    _refused("repetition_detection", "not there"),
    _refused("return_token_offsets", "use return_token_ids", False),
    _refused("return_weight_versions", "weights are one version", False),
    _refused("routed_experts_prompt_start", "not there"),
    _refused("stream_interval", "a setting of the service: --stream-window-ms", 1),
    _refused("thinking_token_budget", "not there"),
    _refused("truncation_side", "a prompt that is too long is an error"),
    _refused("watermarking", "not there"),
    _refused("mm_payload", "text only"),
    _refused("return_mm_kwargs", "text only", False),
    _refused("guided_json", _GUIDED),
    _refused("guided_regex", _GUIDED),
    _refused("guided_choice", _GUIDED),
    _refused("guided_grammar", _GUIDED),
)
_CHAT_ABSENT = (
    _refused("functions", "use tools"),
    _refused("function_call", "use tool_choice", "none", "auto"),
    _refused("modalities", "text only", ["text"]),
    _refused("audio", "text only"),
    _refused("prediction", "not there"),
    _refused("web_search_options", "tools run at the client"),
    _refused("moderation", "not there"),
    _refused("store", "use /v1/responses", False),
    _refused("verbosity", "not there", "medium"),
    _refused("service_tier", "use priority", "auto", "default"),
    _refused("echo", "the prompt is a chat's", False),
    _refused("chat_template", "a template of a client is not run"),
    _refused("documents", "not there", []),
    _refused("mm_processor_kwargs", "text only"),
    _refused("media_io_kwargs", "text only"),
    _refused("return_prompt_text", "use return_token_ids", False),
)


def _table(*parameters: Parameter) -> Mapping[str, Parameter]:
    return {each.name: each for each in parameters}


COMPLETION = _table(
    *_STREAMED,
    *_used("prompt", note="a text, token ids, or a list of either"),
    *_used("max_tokens", note="16 where it is left out, as OpenAI; at least 1, also with echo"),
    *_used("logprobs", note="up to 20"),
    *_used(
        "echo", note="with logprobs the prompt's tokens have theirs too; a token or more follows it"
    ),
    *_PROMPT_LOGPROBS,
    *_FORMAT,
    *_used("add_special_tokens", note="as vLLM"),
    *_SAMPLING,
    *_MANY,
    *_LABELS,
    _refused("suffix", "no text is filled in", ""),
    _refused("best_of", "outputs are not ranked", 1),
    _refused("prompt_embeds", "text and tokens only"),
    *_ABSENT,
)
CHAT = _table(
    *_STREAMED,
    *_used("messages", note="content may be a list of parts of text"),
    *_used("max_tokens", "max_completion_tokens"),
    *_used("logprobs", "top_logprobs"),
    *_PROMPT_LOGPROBS,
    *_FORMAT,
    *_used("tools", note="given to the chat template; calls are read from the output"),
    *_used(
        "tool_choice",
        note="none, auto, required or a function: calls that are forced keep to its parameters",
    ),
    *_used("parallel_tool_calls", note="false: calls after the first one are left out"),
    *_used("reasoning_effort", "chat_template_kwargs", note="given to the chat template"),
    *_used("include_reasoning", note="as vLLM"),
    *_used("add_generation_prompt", "continue_final_message", note="as vLLM"),
    *_used("add_special_tokens", note="as vLLM; false by default"),
    *_SAMPLING,
    *_MANY,
    *_LABELS,
    *_accepted("metadata", note="labels of stored completions, which there are none of"),
    *_CHAT_ABSENT,
    *_ABSENT,
)
RESPONSE = _table(
    *_STREAMED,
    *_used("input", note="a text, or items: messages of text, calls and their outputs, reasoning"),
    *_used("instructions", "max_output_tokens", "previous_response_id", "metadata"),
    *_used("background", note="goes on whatever becomes of the client, and of us"),
    *_used("store", note="false: it can't be asked for later"),
    *_used("tools", "tool_choice", "parallel_tool_calls", note="as with chats"),
    *_used("reasoning", note="effort, given to the chat template"),
    *_used("chat_template_kwargs", note="as vLLM"),
    *_used("text", note="format: text, json_object or json_schema"),
    _refused("response_format", "use text.format", {"type": "text"}),
    *_SAMPLING,
    *_LABELS,
    _refused("include", "not there", []),
    _refused("n", "a response is one", 1),
    _refused("conversation", "use previous_response_id"),
    _refused("prompt", "prompts are not stored here"),
    _refused("max_tool_calls", "tools run at the client"),
    _refused("top_logprobs", "use chats", 0),
    _refused("prompt_logprobs", "use completions or chats"),
    _refused("truncation", "a prompt that is too long is an error", "disabled"),
    _refused("service_tier", "use priority", "auto", "default"),
    _refused("moderation", "not there"),
    _refused("background_options", "use priority and deadline_s"),
    _refused("context_management", "not there", []),
    _refused("access_programs", "not there"),
    _refused("image", "text only"),
    _refused("include_reasoning", "reasoning is an item of its own", True),
    _refused("enable_response_messages", "not there", False),
    _refused("previous_input_messages", "use input"),
    _refused("mm_processor_kwargs", "text only"),
    _refused("media_io_kwargs", "text only"),
    *_ABSENT,
)
TOKENIZE = _table(
    *_used(
        "model", "prompt", "messages", "tools", "add_special_tokens", "return_token_strs",
        "add_generation_prompt", "continue_final_message", "chat_template_kwargs",
    ),
    _refused("chat_template", "a template of a client is not run"),
    _refused("mm_processor_kwargs", "text only"),
)  # fmt: skip
DETOKENIZE = _table(*_used("model", "tokens"))


def check(body: Mapping[str, Any], table: Mapping[str, Parameter]) -> None:
    """Raise ApiError for a field that there is not, or that asks for what is not there."""
    for name, value in body.items():
        parameter = table.get(name)
        if parameter is None:
            message = f"Unknown parameter: {name[:100]!r}."
            raise ApiError(400, message, param=name[:100], code="unknown_parameter")
        if parameter.kind == "refused" and not _is_neutral(value, parameter.neutral):
            message = f"{name} is not supported here: {parameter.note}"
            raise ApiError(400, message, param=name, code="unsupported_parameter")


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether it asks for nothing; 1 is no truth, nor true a number."""
    return value is None or any(type(value) is type(each) and value == each for each in neutral)
