"""One job's life in a simulation."""

from __future__ import annotations

# Token ids: prompts that share a prefix begin alike, every other one is told apart at once.
_FILL, _FIRST_PREFIX, _FIRST_NUMBER = 1, 2, 1 << 20


class Job:
    """One job's life. ``output`` is the length that nobody knows before it ends.

    ``group`` is the stream it belongs to. ``num_admitted`` times a worker let it in, where
    ``num_computed`` positions were computed at least once; the last token came with
    ``last_step`` of its lane, and ``num_done`` says how many there are once it has ended.
    """

    __slots__ = (
        "arrival_s",
        "expected",
        "group",
        "last_step",
        "max_tokens",
        "num_admitted",
        "num_computed",
        "num_done",
        "number",
        "output",
        "prefix",
        "priority",
        "prompt",
        "rank",
        "tenant",
    )

    def __init__(self, number: int, arrival_s: float, prompt: int, output: int) -> None:
        self.number = number
        self.arrival_s = arrival_s
        self.prompt = prompt
        self.output = output
        self.max_tokens = output
        self.group = 0
        self.tenant = ""
        self.priority = 0
        self.prefix = 0  # Of how many tokens the shared part is; 0 for none.
        self.rank = 0.0
        self.expected = 0.0
        self.num_done = 0
        self.num_admitted = 0
        self.num_computed = 0
        self.last_step = 0

    def prompt_token_ids(self, are_hashed: bool) -> bytes | list[int]:
        """Return the prompt; where nobody hashes it, only its length is right."""
        if not are_hashed:
            return bytes(self.prompt)
        num_shared = min(self.prefix, self.prompt - 1)
        rest = self.prompt - num_shared - 1
        return (
            [_FIRST_PREFIX + self.group] * num_shared
            + [_FIRST_NUMBER + self.number]
            + [_FILL] * rest
        )
