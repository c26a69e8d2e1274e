"""The JSON form of a submit request: one line of a batch file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.fields import FieldReaders, Reader, text, wrong
from stepserve.protocol.inference import Request
from stepserve.protocol.limits import U32, MaxItems, Width
from stepserve.protocol.structured import StructuredOutputs


def request_from_json(payload: Any) -> Request:
    """Read a request with the proto's own field names; null stands for an absent field.

    ``prompt_token_ids`` is a plain list, or the proto's {"ids": [...]}. Raises
    InvalidRequest naming the field that is unknown, of a wrong type or out of its type's
    range; what values mean is for the service to judge.
    """
    request: Request = _REQUEST(payload, "")
    return request


def structured_from_json(payload: Any, path: str) -> StructuredOutputs:
    """Read what a text has to be. Raises InvalidRequest as ``request_from_json``."""
    structured: StructuredOutputs = _STRUCTURED(payload, path)
    return structured


@dataclass(frozen=True, slots=True)
class _TokenIds:
    """The proto's message of this name."""

    ids: Sequence[U32] = ()


class _JsonReaders(FieldReaders):
    """Where JSON has another form than the values have."""

    def integer(self, limits: Width, value: Any, path: str) -> int:
        # JSON's keys are strings, and so are protobuf's 64-bit numbers in JSON.
        number = int(value) if isinstance(value, str) and _is_decimal(value) else value
        return super().integer(limits, number, path)

    def check_count(
        self, max_items: MaxItems | None, value: Sequence[Any] | Mapping[Any, Any], path: str
    ) -> None:
        """How many are possible is for the service to judge."""

    def record(self, kind: Any, readers: Mapping[str, Reader], value: Any, path: str) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(path or "request", "an object", value)
        values = _empty_texts(kind)
        for name, entry in value.items():
            text(name, path or "request")
            inner = f"{path}.{name}" if path else str(name)
            if name not in readers:
                raise InvalidRequest(inner, "there is no such field")
            if entry is not None:
                values[name] = readers[name](entry, inner)
        return kind(**values)


def _empty_texts(kind: Any) -> dict[str, Any]:
    """A text that is left out is empty, as in the proto."""
    return {
        field.name: ""
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }


def _token_ids(value: Any, path: str) -> Sequence[int]:
    message: _TokenIds = _TOKEN_IDS({"ids": value} if isinstance(value, list) else value, path)
    return message.ids


def _is_decimal(text: str) -> bool:
    return len(text) <= 20 and text.isascii() and text.removeprefix("-").isdigit()


def _schema(value: Any, path: str) -> str:
    """A schema may stand there itself; its properties keep their order."""
    if isinstance(value, Mapping | bool):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text(value, path)


_READERS = _JsonReaders({"prompt_token_ids": _token_ids, "json": _schema})
_TOKEN_IDS = _READERS.of(_TokenIds)
_REQUEST = _READERS.of(Request)
_STRUCTURED = _READERS.of(StructuredOutputs)
