"""A request to a job with everything resolved, or to an error that names the field."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.frontend.sampling_rules import check_token_ids, resolve_sampling
from scheduler_svc.text.model_card import ModelCard
from scheduler_svc.text.tokenizer import INLINE_CHARS, Tokenizer
from stepserve.modelfiles.sources import slug_of
from stepserve.protocol.errors import Infeasible, InvalidRequest, NotFound
from stepserve.protocol.inference import Request
from stepserve.protocol.inference_fit import fitting, fitting_token_ids
from stepserve.protocol.job import JobSpec

MAX_JOB_ID_CHARS = 256
MAX_TENANT_CHARS = 128
MAX_IDEMPOTENCY_KEY_CHARS = 256
MAX_PRIORITY = 10
MAX_DEADLINE_S = 10 * 366 * 86_400.0
MAX_ROLE_CHARS = 64
MAX_TEMPLATE_KWARGS_CHARS = 64 * 1024
# Of what renders a template: not for a request to say by such a name.
_RENDERING = frozenset(
    {
        "chat_template",
        "continue_final_message",
        "conversations",
        "documents",
        "messages",
        "return_assistant_tokens_mask",
        "self",
        "tools",
    }
)
_PROMPT_FIELDS = ("prompt", "prompt_token_ids", "messages")


async def resolve(request: Request, card: ModelCard) -> JobSpec:
    """Return the job that ``request`` asks for, under a new id, with every default filled in.

    Raises InvalidRequest for what is wrong.
    """
    request = fitting(request)
    _check_envelope(request)
    prompt_token_ids = await _prompt_token_ids(request, card)
    return JobSpec(
        job_id=new_job_id(card.name),
        model=card.name,
        prompt_token_ids=prompt_token_ids,
        sampling=resolve_sampling(request.sampling, card, len(prompt_token_ids)),
        tokenizer_fingerprint=card.tokenizer_fingerprint,
        priority=request.priority,
        tenant=request.tenant,
        idempotency_key=request.idempotency_key,
        deadline_s=request.deadline_s,
        cancel_on_disconnect=request.cancel_on_disconnect,
        is_open_ended=request.sampling.max_tokens is None,
    )


def check_deadline(spec: JobSpec, num_tokens: float, step_s: float) -> None:
    """Raise Infeasible where the job can't meet its deadline even if it starts at once.

    It needs a step of ``step_s`` for each of the ``num_tokens`` that an output is expected
    to become.
    """
    needed_s = num_tokens * step_s
    if 0 < spec.deadline_s < needed_s:
        problem = f"about {num_tokens:.0f} tokens need {needed_s:.3g} s at least"
        raise Infeasible("deadline_s", f"{problem}, {spec.deadline_s:.3g} s are given")


def not_known(job_id: str) -> NotFound:
    """Return the error of a job that is not there; one that is another's says the same."""
    return NotFound(f"job {job_id[:MAX_JOB_ID_CHARS]!r} is not known here")


def new_job_id(model: str) -> str:
    """Return MODEL~UUID: the id names its shard. Safe in URLs, file names and shells."""
    return job_id_of(model, uuid.uuid4().hex)


def job_id_of(model: str, unique: str) -> str:
    """Return the id of the model's job with this UUID, in hexadecimal."""
    return f"{slug_of(model)}~{unique}"


def _check_envelope(request: Request) -> None:
    if abs(request.priority) > MAX_PRIORITY:
        problem = f"must be from {-MAX_PRIORITY} to {MAX_PRIORITY}, not {request.priority}"
        raise InvalidRequest("priority", problem)
    _check_length("tenant", request.tenant, MAX_TENANT_CHARS)
    _check_length("idempotency_key", request.idempotency_key, MAX_IDEMPOTENCY_KEY_CHARS)
    if not 0 <= request.deadline_s <= MAX_DEADLINE_S:
        raise InvalidRequest("deadline_s", f"must be from 0 to {MAX_DEADLINE_S:.0f} seconds")


def check_template_names(names: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where a request says to its template what is not for it to say."""
    if taken := sorted(_RENDERING & names.keys()):
        raise InvalidRequest(f"chat_template_kwargs.{taken[0]}", "is not for a request to say")
    if len(json.dumps(names)) > MAX_TEMPLATE_KWARGS_CHARS:
        problem = f"at most {MAX_TEMPLATE_KWARGS_CHARS} characters of JSON are possible"
        raise InvalidRequest("chat_template_kwargs", problem)


def _check_length(path: str, text: str, max_chars: int) -> None:
    if len(text) > max_chars:
        raise InvalidRequest(path, f"has {len(text)} characters, at most {max_chars} are possible")


async def _prompt_token_ids(request: Request, card: ModelCard) -> Sequence[int]:
    field = _prompt_field(request)
    if field == "prompt_token_ids":
        asked = request.prompt_token_ids or ()
        check_room(field, len(asked), card)
        token_ids = fitting_token_ids(asked, field)
        check_token_ids(field, token_ids, card.vocab_size)
        return token_ids
    if card.tokenizer is None:
        raise InvalidRequest(field, "this model has no tokenizer; send prompt_token_ids")
    text = request.prompt
    if field == "messages":
        conversation = _conversation(request, card.tokenizer, card.max_context)
        check_template_names(request.chat_template_kwargs)
        text = await _rendered(conversation, request.chat_template_kwargs, card)
    check_size(field, len(text), card.tokenizer, card.max_context)
    # A chat template writes the special tokens itself.
    token_ids = await card.tokenizer.encode_async(text, add_special_tokens=field == "prompt")
    check_room(field, len(token_ids), card)
    if max(token_ids) >= card.vocab_size:
        raise InvalidRequest(field, "has a token that the model's vocabulary lacks")
    return token_ids


def _prompt_field(request: Request) -> str:
    given = (bool(request.prompt), request.prompt_token_ids is not None, bool(request.messages))
    present = [name for name, is_given in zip(_PROMPT_FIELDS, given, strict=True) if is_given]
    if not present:
        raise InvalidRequest("prompt", f"is empty; one of {', '.join(_PROMPT_FIELDS)} is needed")
    if request.chat_template_kwargs and present != ["messages"]:
        raise InvalidRequest("chat_template_kwargs", "only messages have a chat template")
    if len(present) > 1:
        raise InvalidRequest(present[1], f"only one of {', '.join(_PROMPT_FIELDS)} is possible")
    return present[0]


def _conversation(request: Request, tokenizer: Tokenizer, max_context: int) -> list[dict[str, str]]:
    """Return the messages; not so long that rendering them would take long."""
    num_chars = 0
    for position, message in enumerate(request.messages):
        if not 1 <= len(message.role) <= MAX_ROLE_CHARS:
            path = f"messages[{position}].role"
            raise InvalidRequest(path, f"must have 1 to {MAX_ROLE_CHARS} characters")
        num_chars += len(message.content)
    check_size("messages", num_chars, tokenizer, max_context)
    return [{"role": message.role, "content": message.content} for message in request.messages]


async def _rendered(
    messages: Sequence[Mapping[str, str]], names: Mapping[str, Any], card: ModelCard
) -> str:
    if card.chat_template is None:
        raise InvalidRequest("messages", f"{card.chat_problem}; send a prompt")
    num_chars = sum(len(text) for message in messages for text in message.values())
    if num_chars <= INLINE_CHARS and not names:
        return card.chat_template.render(messages)
    return await asyncio.to_thread(card.chat_template.render, messages, (), names)


def check_size(field: str, num_chars: int, tokenizer: Tokenizer, max_context: int) -> None:
    """Refuse what can't fit before the work of tokenizing it."""
    if num_chars > max_context * tokenizer.max_token_chars:
        problem = f"{num_chars} characters do not fit in a context of {max_context} tokens"
        raise InvalidRequest(field, problem)


def check_room(field: str, num_tokens: int, card: ModelCard) -> None:
    if not num_tokens:
        raise InvalidRequest(field, "has no tokens")
    if num_tokens >= card.max_context:
        problem = f"{num_tokens} tokens leave no room in a context of {card.max_context}"
        raise InvalidRequest(field, problem)
