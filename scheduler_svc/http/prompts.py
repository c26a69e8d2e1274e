"""What a completion may be asked for: a text, token ids, or a list of either."""

from __future__ import annotations

from typing import Any

from scheduler_svc.http.errors import invalid

MAX_PROMPTS = 128


def prompts_of(value: Any) -> list[str | list[int]]:
    """Return each prompt. Raises ApiError for what is none."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid("prompt", "must be a text, token ids, or a list of either")
    if _is_id(value[0]):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise invalid("prompt", f"has {len(value)} prompts, at most {MAX_PROMPTS} are possible")
    for position, each in enumerate(value):
        if not isinstance(each, str) and not (isinstance(each, list) and each and _is_id(each[0])):
            raise invalid(f"prompt[{position}]", "must be a text or token ids")
    return value


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
