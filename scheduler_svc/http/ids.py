"""Jobs' ids as OpenAI's clients see them: the same UUID, under a name for what it is there."""

from __future__ import annotations

import re

from scheduler_svc.http.errors import not_found

COMPLETION, CHAT, RESPONSE = "cmpl-", "chatcmpl-", "resp_"
_WHAT = {COMPLETION: "completion", CHAT: "chat completion", RESPONSE: "response"}
_UNIQUE = re.compile(r"[0-9a-f]{32}")


def public_id(prefix: str, job_id: str) -> str:
    """Return a job's id under a prefix."""
    return prefix + unique_of(job_id)


def unique_of(job_id: str) -> str:
    """Return what tells a job from all others of its model."""
    return job_id.rpartition("~")[2]


def uuid_of(prefix: str, given: str, param: str | None = None) -> str:
    """Return the UUID of the job that an id stands for. Raises ApiError where it can't be any."""
    unique = given.removeprefix(prefix)
    if not given.startswith(prefix) or _UNIQUE.fullmatch(unique) is None:
        raise not_found(f"{_WHAT[prefix]} {given[:100]!r}", param)
    return unique
