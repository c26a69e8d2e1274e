"""Fields of a request's JSON object, read as what they are to be; null is an absent field.

Each raises ApiError naming the field that is of another type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.http.errors import ApiError, invalid

_NAMES = {bool: "a boolean", int: "an integer", float: "a number", str: "a string",
          list: "an array", dict: "an object", type(None): "null"}  # fmt: skip


def boolean(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Return a truth."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Return a whole number from ``low`` to ``high``, None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if not low <= value <= high:
        raise invalid(name, f"must be from {low} to {high}")
    return value


def text(body: Mapping[str, Any], name: str, default: str = "") -> str:
    """Return a text."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    return value


def mapping(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object, an empty one where there is none."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return value


def array(body: Mapping[str, Any], name: str, max_items: int) -> list[Any]:
    """Return an array, an empty one where there is none."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong_type(name, "an array", value)
    if len(value) > max_items:
        raise invalid(name, f"has {len(value)} items, at most {max_items} are possible")
    return value


def choice(body: Mapping[str, Any], name: str, allowed: Sequence[str], default: str) -> str:
    """Return one of some words."""
    value = text(body, name, default)
    if value not in allowed:
        raise invalid(name, f"must be one of {', '.join(allowed)}")
    return value


def wrong_type(name: str, wanted: str, value: Any) -> ApiError:
    """Return the error of a value that is of another type."""
    problem = f"must be {wanted}, not {_NAMES.get(type(value), 'that')}"
    return invalid(name, problem, code="invalid_type")
