"""How long a job's prompt and output are, in tokens: distributions, drawn from seeded chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

# ShareGPT as vLLM's benchmarks sample it has 202 prompt and 179 output tokens on average (vLLM
# v0.6.0's performance post). The data set itself is not carried; two independent log-normals
# stand for it, cut where those benchmarks cut (4 to 1,024 tokens of prompt, at least 4 of output,
# 2,048 together). The spread is our choice, and the means are fitted to the figures after the
# cut. That gives medians of 128 and 112, p90 of 495 and 399, p99 of 919 and 1,049, and the longest
# output of 8, 16, 32, 64 is 3.0, 3.9, 4.9, 6.0 times the mean: the bound of static batches.
_PROMPT_LOG_MEAN, _PROMPT_LOG_DEVIATION = 4.922461, 1.2
_OUTPUT_LOG_MEAN, _OUTPUT_LOG_DEVIATION = 4.724257, 1.0
_MIN_TOKENS, _MAX_PROMPT_TOKENS, _MAX_TOKENS = 4, 1024, 2048


class JobLengths(Protocol):
    """How long jobs are."""

    def draw(self, chance: random.Random) -> tuple[int, int]:
        """Return (prompt tokens, output tokens), each at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class ShareGPTLengths:
    """Lengths like ShareGPT's, times ``scale``; together never more than ``max_context``.

    A scale of at most ``max_context`` / 2,048 cuts nothing. Above it the longest prompts are
    cut to half the context and the longest outputs to the rest, and the means fall.
    """

    max_context: int = _MAX_TOKENS
    scale: float = 1.0

    def draw(self, chance: random.Random) -> tuple[int, int]:
        while True:
            prompt = round(chance.lognormvariate(_PROMPT_LOG_MEAN, _PROMPT_LOG_DEVIATION))
            output = round(chance.lognormvariate(_OUTPUT_LOG_MEAN, _OUTPUT_LOG_DEVIATION))
            is_short = prompt < _MIN_TOKENS or output < _MIN_TOKENS
            is_long = prompt > _MAX_PROMPT_TOKENS or prompt + output > _MAX_TOKENS
            if not is_short and not is_long:
                break
        prompt = min(max(1, round(prompt * self.scale)), max(1, self.max_context // 2))
        output = min(max(1, round(output * self.scale)), self.max_context - prompt)
        return prompt, output


@dataclass(frozen=True, slots=True)
class Bounds:
    """A number of tokens that is drawn uniformly, both bounds included."""

    low: int
    high: int

    def draw(self, chance: random.Random) -> int:
        return chance.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class UniformLengths:
    """Prompt and output each uniform within its bounds."""

    prompts: Bounds
    outputs: Bounds

    def draw(self, chance: random.Random) -> tuple[int, int]:
        return self.prompts.draw(chance), self.outputs.draw(chance)


@dataclass(frozen=True, slots=True)
class FixedLengths:
    """Every job the same."""

    prompt: int
    output: int

    def draw(self, chance: random.Random) -> tuple[int, int]:  # noqa: ARG002
        return self.prompt, self.output
