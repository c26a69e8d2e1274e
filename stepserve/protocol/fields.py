"""What the fields of a value can hold, as its annotations say: one reading for all who take one.

Types and widths only; what is in them means something to the service alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.limits import MaxItems, Width

# Returns a field's value as the field has it. Raises InvalidRequest, naming the field, which is
# at a path.
Reader: TypeAlias = Callable[[Any, str], Any]
_Limits = TypeVar("_Limits")

# Of JSON's values in one another.
_MAX_DEPTH = 16
_MAX_FLOAT = 3.4028234663852886e38


class FieldReaders:
    """Makes the readers of types. ``own`` has the readers of fields that are read otherwise.

    Here a value's own form is read: what is a dataclass must be one. No item of a list is
    looked at before it is known that there are not too many.
    """

    def __init__(self, own: Mapping[str, Reader]) -> None:
        self._own = own

    def of(self, kind: Any) -> Reader:
        """Return the reader of a type."""
        if kind in _SCALARS:
            return _SCALARS[kind]
        if isinstance(kind, type):
            return self._record_reader(kind)
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (Union, UnionType):
            (kind,) = (each for each in arguments if each is not NoneType)
            return partial(_optional, self.of(kind))
        if origin is Annotated and kind.__origin__ is int:
            return partial(self.integer, _metadata(kind, Width))
        max_items = None
        if origin is Annotated:
            max_items, kind = _metadata(kind, MaxItems), kind.__origin__
            origin, arguments = get_origin(kind), get_args(kind)
        if origin is Sequence:
            return partial(self.sequence, self._items(arguments[0]), max_items)
        if origin is Mapping:
            return partial(self.mapping, self.of(arguments[0]), self.of(arguments[1]), max_items)
        raise TypeError(f"no field holds {kind}")

    def integer(self, limits: Width, value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(path, "an integer", value)
        if not limits.low <= value <= limits.high:
            raise InvalidRequest(path, f"must be from {limits.low} to {limits.high}")
        return value

    def sequence(self, items: Reader, max_items: MaxItems | None, value: Any, path: str) -> Any:
        unread_list(value, path)
        self.check_count(max_items, value, path)
        return items(value, path)

    def mapping(
        self, key: Reader, item: Reader, max_items: MaxItems | None, value: Any, path: str
    ) -> dict[Any, Any]:
        if not isinstance(value, Mapping):
            raise wrong(path, "an object", value)
        self.check_count(max_items, value, path)
        paths = ((name, f"{path}[{_named(name)}]") for name in value)
        return {key(name, inner): item(value[name], inner) for name, inner in paths}

    def check_count(
        self, max_items: MaxItems | None, value: Sequence[Any] | Mapping[Any, Any], path: str
    ) -> None:
        if max_items is not None and len(value) > max_items.count:
            raise InvalidRequest(path, f"at most {max_items.count} are possible")

    def record(self, kind: Any, readers: Mapping[str, Reader], value: Any, path: str) -> Any:
        if not isinstance(value, kind):
            raise wrong(path or "request", "an object", value)
        prefix = f"{path}." if path else ""
        return kind(
            **{
                name: read(getattr(value, name), f"{prefix}{name}")
                for name, read in readers.items()
            }
        )

    def _record_reader(self, kind: Any) -> Reader:
        hints = get_type_hints(kind, include_extras=True)
        readers = {
            field.name: self._own.get(field.name) or self.of(hints[field.name])
            for field in fields(kind)
        }
        return partial(self.record, kind, readers)

    def _items(self, kind: Any) -> Reader:
        read = self.of(kind)
        if get_origin(kind) is Annotated:
            return partial(_integers, _metadata(kind, Width), read)
        return partial(_each, read)


def unread_list(value: Any, path: str) -> Sequence[Any]:
    """Return a list of which no item is looked at."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray, memoryview)):
        raise wrong(path, "a list", value)
    return value


def text(value: Any, path: str) -> str:
    """Return what is a string that can be written down."""
    if not isinstance(value, str):
        raise wrong(path, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(path, "has half of a surrogate pair") from error
    return value


def json_value(value: Any, path: str, depth: int = 0) -> Any:
    """Return a copy of what JSON can say, not nested too deeply."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(path, "is nested too deeply")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, path)
    if isinstance(value, int):
        return value if abs(value) < _MAX_FLOAT else _number(value, path)
    if isinstance(value, float):
        return _number(value, path)
    if isinstance(value, Mapping):
        return {
            text(name, path): json_value(entry, f"{path}.{name[:50]}", depth + 1)
            for name, entry in value.items()
        }
    return [
        json_value(entry, f"{path}[{position}]", depth + 1)
        for position, entry in enumerate(unread_list(value, path))
    ]


def wrong(path: str, wanted: str, value: Any) -> InvalidRequest:
    """Return the error of a value of another type than is ``wanted``."""
    return InvalidRequest(path, f"must be {wanted}, not {type(value).__name__}")


def _flag(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(path, "true or false", value)
    return value


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(path, "a number", value)
    # Of an integer that is too large for any float abs() is one, too.
    if not abs(value) <= _MAX_FLOAT:
        raise InvalidRequest(path, "must be a finite number")
    return float(value)


def _optional(read: Reader, value: Any, path: str) -> Any:
    return None if value is None else read(value, path)


def _each(read: Reader, value: Sequence[Any], path: str) -> list[Any]:
    return [read(entry, f"{path}[{position}]") for position, entry in enumerate(value)]


def _integers(limits: Width, read: Reader, value: Sequence[Any], path: str) -> list[int]:
    """Look at them one by one only where one is wrong: there may be as many as a prompt has."""
    # Of a message's view a slice takes half as long as its items.
    numbers = list(value[:])
    are_all = set(map(type, numbers)) == {int}
    if are_all and limits.low <= min(numbers) and max(numbers) <= limits.high:
        return numbers
    return _each(read, numbers, path)


def _named(key: Any) -> str:
    """A key in a path. That of no field may be of any type and length."""
    if isinstance(key, int) and key.bit_length() > 64:
        return "..."
    return str(key) if isinstance(key, (str, int, float)) else type(key).__name__


def _metadata(kind: Any, of: type[_Limits]) -> _Limits:
    (found,) = (each for each in kind.__metadata__ if isinstance(each, of))
    return found


_SCALARS: Mapping[Any, Reader] = {str: text, bool: _flag, float: _number, Any: json_value}
