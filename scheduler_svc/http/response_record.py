"""What is kept of a response beside its job: what any replica needs to tell of it later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scheduler_svc.http.errors import not_found
from scheduler_svc.text.speech import Manner


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """``shown`` are the request's fields as every answer repeats them; ``messages`` the
    conversation without its instructions, for the response that goes on from this one.
    """

    shown: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    manner: Manner

    @property
    def is_background(self) -> bool:
        """Whether it goes on without its client."""
        return bool(self.shown.get("background"))

    @property
    def is_stored(self) -> bool:
        """Whether it may be asked for later."""
        return bool(self.shown.get("store"))

    @property
    def one_call(self) -> bool:
        """Whether calls after the first are left out."""
        return not self.shown.get("parallel_tool_calls", True)

    def encode(self) -> str:
        """Return it as it is kept."""
        return json.dumps({"response": asdict(self)}, separators=(",", ":"))


def decode_record(stored: str, response_id: str) -> ResponseRecord:
    """Return what was kept. Raises ApiError where that is no response's, or nothing."""
    values = json.loads(stored).get("response") if stored else None
    if values is None:
        raise not_found(f"response {response_id[:100]!r}")
    manner = values["manner"]
    return ResponseRecord(
        values["shown"], values["messages"], Manner(**{**manner, "tools": tuple(manner["tools"])})
    )
