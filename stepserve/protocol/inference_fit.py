"""Whether a request's values fit the fields that they stand in, whoever made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

from stepserve.protocol.fields import FieldReaders, unread_list
from stepserve.protocol.inference import Request


def fitting(request: Request) -> Request:
    """Return the request with each value of its field's type; numbers may be of a kindred one.

    The ids of the prompt are left as they are, for ``fitting_token_ids``: how many are worth
    looking at is for the model to say. Raises InvalidRequest naming the field that is of a
    wrong type, out of its type's range, or has more items than it may.
    """
    fit: Request = _REQUEST(request, "")
    return fit


def fitting_token_ids(token_ids: Sequence[int], path: str) -> list[int]:
    """Return a copy of ids that are some. Raises InvalidRequest naming the one that is none."""
    ids: list[int] = _TOKEN_IDS(token_ids, path)
    return ids


def _unread_token_ids(value: Any, path: str) -> Sequence[int] | None:
    return None if value is None else unread_list(value, path)


_READERS = FieldReaders({"prompt_token_ids": _unread_token_ids})
_REQUEST = _READERS.of(Request)
_TOKEN_IDS = _READERS.of(get_type_hints(Request, include_extras=True)["prompt_token_ids"])
