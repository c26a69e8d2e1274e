"""A worker's runner driven by hand: rows that all decode, or prompts, with nothing around it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kvstore.blocks import num_blocks_for
from kvstore.cache import CacheShape, KVCache
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, StepCommand
from stepserve_bench.gpu.checkpoint import fill, write_config
from stepserve_bench.gpu.geometry import Geometry
from stepserve_bench.gpu.setup import Setup
from worker_svc.core.limits import Limits
from worker_svc.core.residents import StepPlan
from worker_svc.core.step_runner import Launched
from worker_svc.model.decoder import Decoder
from worker_svc.model.weights import EMBEDDING, Targets, allocate
from worker_svc.runner import Runner
from worker_svc.step.graphs import Bucket, CudaRecorder, GraphedSteps
from worker_svc.step.layout import layout_for

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences as a step finds them: (tokens to compute, tokens in all), how they are sampled."""

    lengths: tuple[tuple[int, int], ...]
    temperature: float = 0.0

    @property
    def num_tokens(self) -> int:
        return sum(count for count, _ in self.lengths)

    @property
    def longest(self) -> int:
        return max(context for _, context in self.lengths)


class Model:
    """A decoder of random weights and a cache of random keys, for steps of up to ``limits``."""

    def __init__(self, geometry: Geometry, limits: Limits, setup: Setup) -> None:
        # A directory of its own: models of one shape are made in processes side by side.
        with tempfile.TemporaryDirectory(dir=setup.scratch) as directory:
            config = write_config(geometry, Path(directory))
        targets = Targets(setup.dtype, setup.device)
        weights = allocate(config, EMBEDDING if config.tie_embeddings else None, targets)
        fill(targets.views)
        if config.tie_embeddings:
            weights = weights.with_tied_vocabulary()
        self.geometry, self.limits = geometry, limits
        self.decoder = Decoder(config, weights, setup.kernels())
        sizes = (config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE)
        shape = CacheShape(*sizes, dtype=setup.dtype)
        self.cache = KVCache(shape, limits.num_blocks, setup.device)
        for layer in range(config.num_layers):
            for part in self.cache.layer(layer):
                part.normal_()

    def runner(self, buckets: Sequence[Bucket] = ()) -> Runner:
        """A runner that holds nothing yet, with graphs of these sizes."""
        layout = layout_for("paged", "continuous")
        runner = Runner(self.decoder, self.cache, self.limits, layout)
        if buckets:
            graphs = GraphedSteps(
                self.decoder, self.cache, runner.executor.table, runner.executor.sampler, buckets
            )
            for _ in graphs.capture(CudaRecorder()):
                pass
            runner.executor.graphs = graphs
        return runner


def limits_for(geometry: Geometry, rows: Sequence[Rows], more_tokens: int) -> Limits:
    """Limits in which each of ``rows`` fits, and may go on by ``more_tokens``."""
    context = max(each.longest for each in rows) + more_tokens
    most = max(len(each.lengths) for each in rows)
    blocks = max(
        sum(num_blocks_for(length + more_tokens, BLOCK_SIZE) for _, length in each.lengths)
        for each in rows
    )
    return Limits(
        vocab_size=geometry.vocab_size,
        max_context=context + 1,
        block_size=BLOCK_SIZE,
        num_blocks=blocks,
        max_batch_size=most,
        max_step_tokens=max(most, *(each.num_tokens for each in rows)),
    )


class Driven:
    """One batch in a runner: the first step takes it in, each further one decodes a token a row."""

    def __init__(self, runner: Runner, rows: Rows, limits: Limits, more_tokens: int) -> None:
        self._runner, self._rows, self._limits = runner, rows, limits
        self._more_tokens = more_tokens
        self._number = 0
        # By step, what its rows chose.
        self.chosen: list[tuple[int, ...]] = []

    def first(self) -> tuple[StepPlan, Launched]:
        """Launch the step that computes the rows as they are."""
        counts = tuple(count for count, _ in self._rows.lengths)
        return self._launch(counts, self._admissions())

    def next(self) -> tuple[StepPlan, Launched]:
        """Launch a step in which every row decodes."""
        return self._launch((1,) * len(self._rows.lengths), ())

    def settle(self, launched: tuple[StepPlan, Launched]) -> int:
        """Wait for a step and take what it chose; microseconds that the device was busy."""
        plan, pending = launched
        chosen = pending.wait()
        self._runner.absorb(plan, chosen)
        self.chosen.append(tuple(chosen.token_ids))
        return chosen.duration_us

    def _launch(
        self, counts: tuple[int, ...], admissions: tuple[Admission, ...]
    ) -> tuple[StepPlan, Launched]:
        self._number += 1
        command = StepCommand(
            epoch=1,
            incarnation="",
            step=self._number,
            committed_step=max(0, self._number - 3),
            admissions=admissions,
            row_sequence_ids=tuple(range(len(counts))),
            row_num_tokens=counts,
            row_num_new_blocks=(0,) * len(counts),
        )
        plan = self._runner.plan(command)
        return plan, self._runner.launch(plan)

    def _admissions(self) -> tuple[Admission, ...]:
        chance, first = random.Random(0), 0
        found = []
        for number, (count, context) in enumerate(self._rows.lengths):
            width = num_blocks_for(context + self._more_tokens, BLOCK_SIZE)
            found.append(
                Admission(
                    sequence_id=number,
                    job_id="",
                    index=0,
                    token_ids=tuple(chance.choices(range(self._limits.vocab_size), k=context)),
                    num_prompt_tokens=context,
                    sampling=Sampling(
                        max_tokens=self._more_tokens,
                        temperature=self._rows.temperature,
                        seed=number,
                    ),
                    num_computed=context - count,
                    block_ids=tuple(range(first, first + width)),
                )
            )
            first += width
        return tuple(found)


def empty_cache() -> None:
    """Give a model's memory back before the next one is made."""
    torch.cuda.empty_cache()
