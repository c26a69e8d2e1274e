"""The JSON form of a submit request: one line of a batch file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference_wire import SubmitRequest

_INTEGERS = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
}
_MAX_FLOAT = 3.4028234663852886e38


def request_from_json(payload: Any) -> SubmitRequest:
    """Read a request with the proto's own field names; null stands for an absent field.

    ``prompt_token_ids`` is a plain list, or the proto's {"ids": [...]}. Raises
    InvalidRequest naming the field that is unknown, of a wrong type or out of its type's
    range; what values mean is for the service to judge.
    """
    if isinstance(payload, Mapping) and isinstance(payload.get("prompt_token_ids"), list):
        payload = {**payload, "prompt_token_ids": {"ids": payload["prompt_token_ids"]}}
    _check_message(payload, SubmitRequest.DESCRIPTOR, "")
    return json_format.ParseDict(payload, SubmitRequest())


def _check_message(value: Any, descriptor: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(path or "request", "an object", value)
    for name, entry in value.items():
        _check_text(name, path or "request")
        inner = f"{path}.{name}" if path else str(name)
        field = descriptor.fields_by_name.get(name)
        if field is None:
            raise InvalidRequest(inner, "there is no such field")
        if entry is not None:
            _check_field(entry, field, inner)


def _check_field(value: Any, field: FieldDescriptor, path: str) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _check_map(value, field.message_type, path)
    elif field.is_repeated:
        if not isinstance(value, list):
            raise _wrong(path, "a list", value)
        for position, entry in enumerate(value):
            _check_value(entry, field, f"{path}[{position}]")
    else:
        _check_value(value, field, path)


def _check_map(value: Any, entry: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object", value)
    for key, item in value.items():
        _check_value(key, entry.fields_by_name["key"], f"{path}[{key}]")
        _check_value(item, entry.fields_by_name["value"], f"{path}[{key}]")


def _check_value(value: Any, field: FieldDescriptor, path: str) -> None:
    if field.message_type is not None:
        _check_message(value, field.message_type, path)
    elif field.type == FieldDescriptor.TYPE_STRING:
        _check_text(value, path)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        if not isinstance(value, bool):
            raise _wrong(path, "true or false", value)
    elif field.type in _INTEGERS:
        _check_integer(value, _INTEGERS[field.type], path)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(path, "a number", value)
    elif not math.isfinite(value) or abs(value) > _MAX_FLOAT:
        raise InvalidRequest(path, "must be a finite number")


def _check_text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise _wrong(path, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(path, "has half of a surrogate pair") from error


def _check_integer(value: Any, limits: tuple[int, int], path: str) -> None:
    # JSON's keys are strings, and so are protobuf's 64-bit numbers in JSON.
    number = int(value) if isinstance(value, str) and _is_decimal(value) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise _wrong(path, "an integer", value)
    low, high = limits
    if not low <= number <= high:
        raise InvalidRequest(path, f"must be from {low} to {high}")


def _is_decimal(text: str) -> bool:
    return len(text) <= 20 and text.isascii() and text.removeprefix("-").isdigit()


def _wrong(path: str, wanted: str, value: Any) -> InvalidRequest:
    return InvalidRequest(path, f"must be {wanted}, not {type(value).__name__}")
