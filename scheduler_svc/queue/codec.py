"""How job values are written in Redis.

Decoding is strict about what it does not know, and takes the default of what a record lacks: it
was written before that came.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, fields, replace
from functools import lru_cache
from itertools import chain
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stepserve.protocol.errors import InvalidRequest, StepserveError
from stepserve.protocol.job import Finish, JobSpec
from stepserve.protocol.packed import unpack
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import MAX_OUTPUTS, Sampling
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs

_STORED_ELSEWHERE = ("prompt_token_ids", "arrival_s", "deadline_s", "is_open_ended", "record")
_SPEC_FIELDS = frozenset(f.name for f in fields(JobSpec)) - {*_STORED_ELSEWHERE}
_SAMPLING_FIELDS = frozenset(f.name for f in fields(Sampling))
_LATER = ("min_tokens", "structured_outputs", "prompt_logprobs")
_DEFAULTS = {f.name: f.default for f in fields(Sampling)}
_FINISH_FIELDS = frozenset(f.name for f in fields(Finish))
_STRUCTURED_FIELDS = frozenset(f.name for f in fields(StructuredOutputs))
_SPEC, _FINISH = TypeAdapter(JobSpec), TypeAdapter(Finish)


class Corrupt(StepserveError):
    """Redis holds something that this version did not write."""


# What reading or writing one job's record raises where that is broken: no other job's trouble.
RECORD_ERRORS = (
    Corrupt,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
)


def unpack_u32(data: bytes) -> tuple[int, ...]:
    """Raises Corrupt where these are no packed numbers."""
    try:
        return unpack("tokens", data)
    except InvalidRequest as error:
        raise Corrupt(str(error)) from error


def encode_spec(spec: JobSpec) -> str:
    """All of a spec but its prompt, arrival and deadline, which have fields of their own."""
    values = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    if not spec.trace:
        del values["trace"]  # Versions before know no such field, and may run beside us.
    values["sampling"] = asdict(spec.sampling)
    for name in _LATER:
        # What a version before does not know of is written where it is asked for.
        if values["sampling"][name] == _DEFAULTS[name]:
            del values["sampling"][name]
    return json.dumps(values, separators=(",", ":"))


def decode_spec(text: bytes, prompt: bytes, arrival: bytes, deadline: bytes | None) -> JobSpec:
    values = _load(text, _SPEC_FIELDS)
    sampling = values.get("sampling")
    if not isinstance(sampling, dict) or sampling.keys() - _SAMPLING_FIELDS:
        raise Corrupt("the stored sampling has fields that this version does not know")
    if structured := sampling.get("structured_outputs"):
        sampling["structured_outputs"] = _structured(structured)
    try:
        times = {"arrival_s": float(arrival), "deadline_s": float(deadline or 0)}
        spec = _SPEC.validate_python({**values, **times, "prompt_token_ids": ()})
    except (TypeError, ValueError) as error:
        raise Corrupt(f"a stored job has a value of a wrong kind: {told(error)}") from None
    return replace(spec, prompt_token_ids=unpack_u32(prompt))


def _structured(values: Any) -> dict[str, Any]:
    """What pydantic would pass over is not to be lost."""
    if not isinstance(values, dict) or values.keys() - _STRUCTURED_FIELDS:
        raise Corrupt("a stored job asks for an output that this version does not know")
    choice = values.get("choice", ())
    return {**values, "choice": tuple(choice) if isinstance(choice, list) else choice}


def told(error: Exception) -> str:
    """What is wrong with a record, and not the value: it may be of a prompt."""
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems[:3])


def encode_finish(finish: Finish) -> str:
    return json.dumps(asdict(finish), separators=(",", ":"))


def decode_finish(text: bytes) -> Finish:
    values = _load(text, _FINISH_FIELDS)
    try:
        return _FINISH.validate_python(values)
    except ValidationError as error:
        raise Corrupt(f"a stored end is none: {told(error)}") from None


@lru_cache(maxsize=64)
def _entry(num_top: int) -> struct.Struct:
    return struct.Struct("<f" + "If" * num_top)


# Behind a prompt's: of how many tokens they are, and how many likeliest ones each has. Nothing else
# makes an entry's length odd.
_PROMPT_END = struct.Struct("<IB")


def encode_logprobs(entry: TokenLogprobs) -> bytes:
    """Little-endian: float32, then for each of the likeliest a u32 and a float32.

    Where there are the prompt's, these follow as they are packed, then their numbers.
    """
    own = _entry(len(entry.top)).pack(entry.logprob, *chain.from_iterable(entry.top))
    prompt = entry.prompt
    if prompt is None:
        return own
    numbers = _PROMPT_END.pack(len(prompt), prompt.num_top)
    return own + prompt.logprobs + prompt.top_ids + prompt.top_logprobs + numbers


def decode_logprobs(data: bytes) -> TokenLogprobs:
    own, prompt = _without_prompt(data) if len(data) % 4 else (data, None)
    count, rest = divmod(len(own) - 4, 8)
    if count < 0 or rest:
        raise Corrupt(f"{len(data)} bytes are not a token's log-probabilities")
    logprob, *flat = _entry(count).unpack(own)
    return TokenLogprobs(logprob, tuple(zip(flat[::2], flat[1::2], strict=True)), prompt)


def _without_prompt(data: bytes) -> tuple[bytes, PromptLogprobs]:
    end = len(data) - _PROMPT_END.size
    if end < 0:
        raise Corrupt(f"{len(data)} bytes are not a token's log-probabilities")
    num_tokens, num_top = _PROMPT_END.unpack_from(data, end)
    size = 4 * num_tokens
    begin = end - size * (1 + 2 * num_top)
    if begin < 0:
        raise Corrupt(f"{len(data)} bytes are not the log-probabilities of {num_tokens} tokens")
    ids = begin + size
    top = ids + size * num_top
    return data[:begin], PromptLogprobs(data[begin:ids], data[ids:top], data[top:end])


def _load(text: bytes, names: frozenset[str]) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise Corrupt("a stored record is not JSON") from error
    if not isinstance(values, dict) or values.keys() - names:
        raise Corrupt("a stored record has fields that this version does not know")
    return values


def decode_known(text: bytes | None) -> int | None:
    """Return a count that nobody may have noted."""
    return int(text) if text and text.isdigit() else None


def decode_count(text: bytes | None) -> int:
    """Return a count of a job's record; 0 where it is none, as the scripts take it."""
    return int(text) if text and text.isdigit() else 0


def decode_num_outputs(text: bytes | None) -> int:
    """Return a job's "n"; as many as there may be where its record is broken."""
    text = text or b"0"
    return min(int(text), MAX_OUTPUTS) if text.isdigit() else MAX_OUTPUTS
