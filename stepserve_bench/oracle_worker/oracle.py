"""The oracle's model: the next token is a pure function of the context, and cheap.

Its state after a token is a hash of the state before it and of the token. What a model reads of
its cache is all of the context; here it is the state after the last token, and the one at the end
of every full block: who reads a block that is another's, or was written over, chooses otherwise.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from stepserve.protocol.sampling import Sampling

BLOCK_SIZE = 16
# What is chosen from: of the demo model's vocabulary, none of those that end a text.
FIRST_TOKEN, NUM_TOKENS = 300, 200
# Never chosen: a prompt that has it crashes whichever worker computes it.
POISON = FIRST_TOKEN - 1
# By this, which nothing else here ends by.
CRASH = signal.SIGILL
EMPTY = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_FACTOR, _SPREAD = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def state_after(state: int, token_id: int) -> int:
    """Return the state after one more token; ``EMPTY`` is the one before the first."""
    mixed = ((state ^ (token_id * _SPREAD & _MASK)) * _FACTOR) & _MASK
    return mixed ^ (mixed >> 31)


def choose(last: int, landmarks: int, draw: int = 0) -> int:
    """Return the next token after a context with this last state.

    ``landmarks`` is the sum of the states at the ends of its full blocks, ``draw`` what chance
    says (``draw_of``).
    """
    return FIRST_TOKEN + state_after((last + landmarks + draw) & _MASK, 0) % NUM_TOKENS


def draw_of(sampling: Sampling, index: int, offset: int) -> int:
    """Return chance as a function of (seed, output index, offset); 0 where the choice is greedy."""
    if not sampling.temperature:
        return 0
    return state_after(state_after(sampling.seed & _MASK, index), offset)


def output_of(
    prompt: Sequence[int], sampling: Sampling, max_context: int, index: int = 0
) -> tuple[list[int], str]:
    """Return one output of a job that runs alone, and why it ends: "stop" or "length"."""
    last, landmarks, length = EMPTY, 0, 0

    def read(token_id: int) -> None:
        nonlocal last, landmarks, length
        last, length = state_after(last, token_id), length + 1
        if length % BLOCK_SIZE == 0:
            landmarks += last

    for token_id in prompt:
        read(token_id)
    found: list[int] = []
    most = min(sampling.max_tokens, max_context - len(prompt))
    while len(found) < most:
        found.append(choose(last, landmarks, draw_of(sampling, index, len(found))))
        if found[-1] in sampling.stop_token_ids:
            return found, "stop"
        read(found[-1])
    return found, "length"
