"""Frozen values as JSON and back, from their types: no encoder is written by hand.

A dataclass or named tuple is an object of the fields that differ from their defaults, so that
a new field with a default leaves what is recorded readable, and the same bytes; one that does
not compare is no part of the value. One of a
union's dataclasses is ``{its name: it}``. A mapping is a list of pairs, in its order. A number that
JSON lacks is a text: "inf", "-inf", "nan". Decoding is strict: what is not ours raises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stepserve.protocol.errors import StepserveError

NOT_IN_JSON = ("inf", "-inf", "nan")


class BadTrace(StepserveError):
    """It is no trace, or another version's."""


@dataclass(frozen=True, slots=True)
class Codec:
    """``pack`` makes JSON of a value, ``unpack`` the value again; it raises BadTrace."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def canonical(packed: Any) -> str:
    """Return the one line that stands for it."""
    return json.dumps(packed, separators=(",", ":"), allow_nan=False)


def codec(kind: Any) -> Codec:
    """Return the codec of a type. Raises TypeError for one that this file does not know."""
    if kind in SCALARS:
        return SCALARS[kind]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Codec(lambda value: value.value, partial(_enum, kind))
    if is_dataclass(kind):
        told = [field for field in fields(kind) if field.init and field.compare]
        return _record(kind, {field.name: _default(field) for field in told})
    if hasattr(kind, "_field_defaults"):  # a NamedTuple
        return _record(
            kind, {name: kind._field_defaults.get(name, MISSING) for name in kind._fields}
        )
    if (generic := GENERICS.get(get_origin(kind))) is not None:
        return generic(get_args(kind))
    raise TypeError(f"no encoding for {kind}")


def _as_it_is(value: Any) -> Any:
    return value


def _scalar(kind: type, data: Any) -> Any:
    if type(data) is not kind:
        raise BadTrace(f"{data!r:.80} is no {kind.__name__}")
    return data


def _pack_float(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


def _unpack_float(data: Any) -> float:
    number: float = float(data) if data in NOT_IN_JSON else _scalar(float, data)
    return number


def _unpack_bytes(data: Any) -> bytes:
    try:
        return bytes.fromhex(_scalar(str, data))
    except ValueError as error:
        raise BadTrace(f"{data!r:.80} is not in hexadecimal") from error


SCALARS: Mapping[Any, Codec] = {
    int: Codec(_as_it_is, partial(_scalar, int)),
    str: Codec(_as_it_is, partial(_scalar, str)),
    bool: Codec(_as_it_is, partial(_scalar, bool)),
    float: Codec(_pack_float, _unpack_float),
    bytes: Codec(bytes.hex, _unpack_bytes),
}


def _choice(choices: Sequence[Any], data: Any) -> Any:
    if data not in choices:
        raise BadTrace(f"{data!r:.80} is none of {choices}")
    return data


def _enum(kind: type[Enum], data: Any) -> Enum:
    return kind(_choice([member.value for member in kind], data))


def _items(data: Any) -> list[Any]:
    items: list[Any] = _scalar(list, data)
    return items


def _literal(choices: Sequence[Any]) -> Codec:
    return Codec(_as_it_is, partial(_choice, choices))


def _mapping(kinds: Sequence[Any]) -> Codec:
    pairs = _list_of(_tuple(kinds))
    return Codec(lambda value: pairs.pack(value.items()), lambda data: dict(pairs.unpack(data)))


def _series(kinds: Sequence[Any]) -> Codec:
    kind = kinds[0]
    if kind is int:  # the bulk of a trace
        return Codec(list, _ints)
    return _list_of(codec(kind))


def _list_of(item: Codec) -> Codec:
    return Codec(
        lambda value: [item.pack(each) for each in value],
        lambda data: tuple(item.unpack(each) for each in _items(data)),
    )


def _ints(data: Any) -> tuple[int, ...]:
    for each in _items(data):
        _scalar(int, each)
    return tuple(data)


def _tuple(kinds: Sequence[Any]) -> Codec:
    if kinds[-1] is Ellipsis:
        return _series(kinds)
    codecs = [codec(kind) for kind in kinds]

    def pack(value: tuple[Any, ...]) -> list[Any]:
        return [one.pack(each) for one, each in zip(codecs, value, strict=True)]

    def unpack(data: Any) -> tuple[Any, ...]:
        if len(_items(data)) != len(codecs):
            raise BadTrace(f"{len(data)} items, {len(codecs)} belong there")
        return tuple(one.unpack(each) for one, each in zip(codecs, data, strict=True))

    return Codec(pack, unpack)


def _union(kinds: Sequence[Any]) -> Codec:
    """Something or None; or one of several dataclasses."""
    if NoneType in kinds:
        (kind,) = (kind for kind in kinds if kind is not NoneType)
        some = codec(kind)
        return Codec(
            lambda value: None if value is None else some.pack(value),
            lambda data: None if data is None else some.unpack(data),
        )
    packs = {kind: (kind.__name__, codec(kind).pack) for kind in kinds}
    unpacks = {kind.__name__: codec(kind).unpack for kind in kinds}

    def pack(value: Any) -> dict[str, Any]:
        name, pack_fields = packs[type(value)]
        return {name: pack_fields(value)}

    def unpack(data: Any) -> Any:
        ((name, packed),) = _object(data, 1).items()
        if name not in unpacks:
            raise BadTrace(f"{name!r:.80} is none of {', '.join(unpacks)}")
        return unpacks[name](packed)

    return Codec(pack, unpack)


def _object(data: Any, num_fields: int | None = None) -> dict[str, Any]:
    values: dict[str, Any] = _scalar(dict, data)
    if num_fields is not None and len(values) != num_fields:
        raise BadTrace(f"{len(values)} fields, {num_fields} belong there")
    return values


GENERICS: Mapping[Any, Callable[[Sequence[Any]], Codec]] = {
    Literal: _literal,
    Union: _union,
    UnionType: _union,
    Mapping: _mapping,
    Sequence: _series,
    tuple: _tuple,
}


def _default(field: Field[Any]) -> Any:
    """Return the field's default; MISSING where it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _record(kind: Any, defaults: Mapping[str, Any]) -> Codec:
    """``kind`` has the fields of ``defaults``, in that order."""
    hints = get_type_hints(kind)
    codecs = {name: codec(hints[name]) for name in defaults}
    columns = [
        (
            name,
            None if codecs[name].pack is _as_it_is else codecs[name].pack,
            # Equal to nothing where there is none.
            MISSING if default is MISSING else codecs[name].pack(default),
        )
        for name, default in defaults.items()
    ]

    def pack(value: Any) -> dict[str, Any]:
        values = {}
        for name, pack_field, default in columns:
            item = getattr(value, name)
            if pack_field is not None:
                item = pack_field(item)
            if item != default:
                values[name] = item
        return values

    def unpack(data: Any) -> Any:
        values = {}
        for name, item in _object(data).items():
            if name not in codecs:
                raise BadTrace(f"{kind.__name__} has no field {name!r:.80}")
            values[name] = codecs[name].unpack(item)
        try:
            return kind(**values)
        except (TypeError, ValueError) as error:
            raise BadTrace(f"{kind.__name__}: {error}") from None

    return Codec(pack, unpack)
