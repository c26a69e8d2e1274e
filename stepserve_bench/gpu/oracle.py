"""Invariant 1 on the device: in any batch and under preemption, each job's output is the lone one.

Four families with tiny random weights, in float32, each served by a service of its own, all of
them at once on the one device; transformers computes the same jobs one by one on the CPU.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch

from stepserve import AsyncClient
from stepserve.local.serving import serve
from stepserve.protocol.errors import one_line
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams
from stepserve_bench.gpu.checkpoint import write_checkpoint
from stepserve_bench.gpu.child import forked_map
from stepserve_bench.gpu.geometry import FAMILIES, Geometry
from stepserve_bench.gpu.lone import load, lone_greedy
from stepserve_bench.gpu.service import up_flags
from stepserve_bench.gpu.setup import Row, Setup

PROMPT_LENGTHS, OUTPUT_LENGTHS = (1, 2, 7, 16, 17, 33, 48, 70, 150), (1, 2, 9, 16, 24, 40)
NUM_JOBS = 24
# Too few blocks for all that run, and steps too small for a long prompt: jobs are preempted and
# computed again, prompts are split, graphs are padded.
SCARCE: dict[str, Any] = {"max_batch_size": 16, "max_step_tokens": 64, "num_blocks": 40}

Job = tuple[list[int], int]


def oracle(setup: Setup) -> Iterator[Row]:
    """Yield a row for each family: jobs, tokens, how many near ties were excused, a fault."""
    families = FAMILIES[-1:] if setup.is_small else FAMILIES
    compare = partial(_family, setup)
    yield from forked_map(compare, families, len(families), setup.left_s)


def _family(setup: Setup, geometry: Geometry) -> Row:
    try:
        return _compared(setup, geometry)
    except Exception as error:
        return {"what": geometry.name, "error": one_line(error)}


def _compared(setup: Setup, geometry: Geometry) -> Row:
    torch.set_num_threads(2)
    directory = write_checkpoint(geometry, setup.scratch)
    jobs = _jobs(geometry, 6 if setup.is_small else NUM_JOBS)
    flags = {**SCARCE, "device": setup.device_name, "kernels": setup.kernels_name}
    with serve(directory, dtype="float32", **{**flags, **up_flags(setup.up)}) as served:
        outputs = asyncio.run(_outputs(served.target, jobs))
    model = load(directory)
    runs = [lone_greedy(model, *job) for job in jobs]
    found = [run.difference(tokens) for run, tokens in zip(runs, outputs, strict=True)]
    differing = sum(run.tokens != tokens for run, tokens in zip(runs, outputs, strict=True))
    faults = list(filter(None, found))
    row = {
        "what": geometry.name,
        "jobs": len(jobs),
        "tokens": sum(map(len, outputs)),
        "wrong": len(faults),
        "excused": differing - len(faults),
    }
    return row | ({"fault": faults[0]} if faults else {})


def _jobs(geometry: Geometry, count: int) -> list[Job]:
    chance = random.Random(91)
    return [
        (
            chance.choices(range(2, geometry.vocab_size), k=chance.choice(PROMPT_LENGTHS)),
            chance.choice(OUTPUT_LENGTHS),
        )
        for _ in range(count)
    ]


async def _outputs(target: str, jobs: Sequence[Job]) -> list[list[int]]:
    async with AsyncClient(target) as client:
        requests = [
            Request(
                prompt_token_ids=prompt,
                sampling=SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True),
            )
            for prompt, output in jobs
        ]
        done = await asyncio.gather(*(client.complete(request) for request in requests))
        return [list(completion.outputs[0].token_ids) for completion in done]
