"""The JSON form of a submit request: one line of a batch file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import Request
from stepserve.protocol.integers import U32, Width

# Makes a field's value of its JSON. Raises InvalidRequest, naming the field, which is at a path.
Reader: TypeAlias = Callable[[Any, str], Any]

_MAX_FLOAT = 3.4028234663852886e38


def request_from_json(payload: Any) -> Request:
    """Read a request with the proto's own field names; null stands for an absent field.

    ``prompt_token_ids`` is a plain list, or the proto's {"ids": [...]}. Raises
    InvalidRequest naming the field that is unknown, of a wrong type or out of its type's
    range; what values mean is for the service to judge.
    """
    request: Request = _REQUEST(payload, "")
    return request


@dataclass(frozen=True, slots=True)
class _TokenIds:
    """The proto's message of this name."""

    ids: Sequence[U32] = ()


def _reader(kind: Any) -> Reader:
    """Return the reader of a field's type."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    if isinstance(kind, type):
        return _object_reader(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        (limits,) = (each for each in kind.__metadata__ if isinstance(each, Width))
        return partial(_integer, limits)
    if origin in (Union, UnionType):
        (kind,) = (each for each in arguments if each is not NoneType)
        return _reader(kind)
    if origin is Sequence:
        return partial(_list, _reader(arguments[0]))
    if origin is Mapping:
        return partial(_map, _reader(arguments[0]), _reader(arguments[1]))
    raise TypeError(f"no JSON for {kind}")


def _object_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind, include_extras=True)
    readers = {
        field.name: _OWN_READERS.get(field.name) or _reader(hints[field.name])
        for field in fields(kind)
    }
    # A text that is left out is empty, as in the proto.
    empty = {
        field.name: ""
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return partial(_object, kind, readers, empty)


def _object(
    kind: Any, readers: Mapping[str, Reader], empty: Mapping[str, str], value: Any, path: str
) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(path or "request", "an object", value)
    values: dict[str, Any] = dict(empty)
    for name, entry in value.items():
        _text(name, path or "request")
        inner = f"{path}.{name}" if path else str(name)
        if name not in readers:
            raise InvalidRequest(inner, "there is no such field")
        if entry is not None:
            values[name] = readers[name](entry, inner)
    return kind(**values)


def _list(item: Reader, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(path, "a list", value)
    return [item(entry, f"{path}[{position}]") for position, entry in enumerate(value)]


def _map(key: Reader, item: Reader, value: Any, path: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object", value)
    paths = ((name, f"{path}[{name}]") for name in value)
    return {key(name, inner): item(value[name], inner) for name, inner in paths}


def _token_ids(value: Any, path: str) -> Sequence[int]:
    message: _TokenIds = _TOKEN_IDS({"ids": value} if isinstance(value, list) else value, path)
    return message.ids


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(path, "has half of a surrogate pair") from error
    return value


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "true or false", value)
    return value


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(path, "a number", value)
    if not math.isfinite(value) or abs(value) > _MAX_FLOAT:
        raise InvalidRequest(path, "must be a finite number")
    return float(value)


def _integer(limits: Width, value: Any, path: str) -> int:
    # JSON's keys are strings, and so are protobuf's 64-bit numbers in JSON.
    number = int(value) if isinstance(value, str) and _is_decimal(value) else value
    if isinstance(number, bool) or not isinstance(number, int):
        raise _wrong(path, "an integer", value)
    if not limits.low <= number <= limits.high:
        raise InvalidRequest(path, f"must be from {limits.low} to {limits.high}")
    return number


def _is_decimal(text: str) -> bool:
    return len(text) <= 20 and text.isascii() and text.removeprefix("-").isdigit()


def _wrong(path: str, wanted: str, value: Any) -> InvalidRequest:
    return InvalidRequest(path, f"must be {wanted}, not {type(value).__name__}")


_SCALARS: Mapping[Any, Reader] = {str: _text, bool: _flag, float: _number}
_OWN_READERS: Mapping[str, Reader] = {"prompt_token_ids": _token_ids}
_TOKEN_IDS = _object_reader(_TokenIds)
_REQUEST = _object_reader(Request)
