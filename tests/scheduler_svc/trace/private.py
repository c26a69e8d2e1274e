"""What a trace may say, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# Job ids and the incarnation identify; reasons and the core's own messages are few; tenants
# are 16 hexadecimal digits; the rest names the format and its settings.
ALLOWED = re.compile(
    r"job\d+|[\w.-]+~[0-9a-f]{32}|[0-9a-f]{32}|[0-9a-f]{16}"
    r"|stop|length|error|cancelled|deadline|the model's logits were not finite"
    r"|the job's deadline has passed|the job can't meet its deadline: about [^a-z]+ s are needed.*"
    r"|the worker's context of \d+ tokens is full|its text can't be searched for stop strings: \w+"
    r"|stepserve-trace|continuous|static|inf|"
)
TOKENS = ("prompt_token_ids", "token_ids")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every text and number of some JSON, with the name of the field that it is in."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, name)
    else:
        yield name, value


def check_private(trace: str, vocab_size: int) -> None:
    """Assert that there is no text but what is allowed, and no token.

    Unlike a token, a pseudonym is hardly ever below ``vocab_size``.
    """
    for line in trace.splitlines():
        for name, value in leaves(json.loads(line)):
            if isinstance(value, str):
                assert ALLOWED.fullmatch(value), f"{name} is {value}"
            assert name not in TOKENS or value >= vocab_size, f"{name} holds {value}"
            # Whether a prompt is scored decides what is computed; no number is told.
            assert "logprob" not in name or (name, value) == ("prompt_logprobs", 0)
            assert name != "text_bytes" or value == 0
