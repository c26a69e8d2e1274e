"""What the service is loaded with: the field's two end-to-end runs, and one stream alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from stepserve_bench.gpu.geometry import Geometry

NANO_REQUESTS, NANO_LENGTHS, NANO_TOKENS = 256, (100, 1024), 10_000
NANO_TEMPERATURE = 0.6


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that are all sent at once, end tokens ignored; temperature 0 is greedy.

    ``lengths`` are (prompt, output) of each, in tokens.
    """

    name: str
    prompts: Sequence[Sequence[int]]
    outputs: Sequence[int]
    temperature: float

    @property
    def lengths(self) -> list[tuple[int, int]]:
        return list(zip(map(len, self.prompts), self.outputs, strict=True))

    def requests(self) -> list[Request]:
        """What a client sends."""
        return [
            Request(
                prompt_token_ids=prompt,
                sampling=SamplingParams(
                    max_tokens=output, temperature=self.temperature, seed=number, ignore_eos=True
                ),
            )
            for number, (prompt, output) in enumerate(zip(self.prompts, self.outputs, strict=True))
        ]


def nano_load(count: int, lengths: tuple[int, int], vocab_size: int) -> Load:
    """nano-vllm's bench, drawn as its bench.py draws it: 133,966 output tokens in all."""
    chance = random.Random(0)
    top = min(NANO_TOKENS, vocab_size - 1)
    prompts = [
        [chance.randint(0, top) for _ in range(chance.randint(*lengths))] for _ in range(count)
    ]
    outputs = [chance.randint(*lengths) for _ in range(count)]
    return Load(f"{count} x U{lengths}", prompts, outputs, NANO_TEMPERATURE)


def even_load(count: int, prompt: int, output: int, geometry: Geometry) -> Load:
    """Requests of equal lengths, greedy."""
    chance = random.Random(1)
    prompts = [chance.choices(range(2, geometry.vocab_size), k=prompt) for _ in range(count)]
    return Load(f"{count} x {prompt} in, {output} out", prompts, [output] * count, 0.0)
