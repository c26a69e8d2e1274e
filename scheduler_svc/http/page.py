"""A page of a list, as OpenAI's clients turn them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler_svc.http.errors import invalid

MAX_LIMIT = 10_000


def page_of(
    items: Sequence[dict[str, Any]], query: Mapping[str, str], default_limit: int
) -> dict[str, Any]:
    """Return the items after the one that ``after`` names, ``limit`` at most.

    Raises ApiError where the query is wrong.
    """
    limit = query.get("limit", str(default_limit))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and int(limit) >= 1):
        raise invalid("limit", f"must be from 1 to {MAX_LIMIT}")
    if after := query.get("after"):
        ids = [item["id"] for item in items]
        if after not in ids:
            raise invalid("after", "names none of the list")
        items = items[ids.index(after) + 1 :]
    page = items[: min(int(limit), MAX_LIMIT)]
    return {
        "object": "list",
        "data": list(page),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }
