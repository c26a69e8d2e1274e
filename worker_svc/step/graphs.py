"""Steps as CUDA graphs: captured once over bucketed sizes, replayed by one call.

A step of a small model is a few hundred launches that each take the host longer than the device.
What depends on the step is read by the graph from one buffer that is copied before it; the grids
are those of the bucket, so the batch is padded by tokens outside of every row and by empty rows.
Where all rows decode, the vocabulary's product and the usual ways to choose from it are graphs too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kvstore.cache import KVCache
from worker_svc.core.limits import Limits
from worker_svc.core.needs import StepNeeds
from worker_svc.core.residents import Row
from worker_svc.kernels.choice import Choice, SampledRows
from worker_svc.model.model import Model
from worker_svc.model.part import Part
from worker_svc.model.share import WHOLE
from worker_svc.step.flat import FlatStep, on_device
from worker_svc.step.rows import RowTable
from worker_svc.step.sampler import Sampler
from worker_svc.step.staging import Buffer, aligned

# Decodes of contexts up to each have graphs of their own, as well as the longest there may be: the
# longer contexts may be, the more programs attention launches only to find nothing to do.
CONTEXT_BOUNDS = (4096,)
# A mixed step of more tokens keeps the device busy for longer than the host needs to launch it.
MAX_GRAPHED_TOKENS = 8192
# What a step may need so that its tokens are chosen by a graph, the least first: a token is the
# same where more is said to be needed. Penalties, biases and log-probabilities are not usual.
GRAPHED_NEEDS = (StepNeeds(draw=True), StepNeeds(draw=True, cut=True))

# What the driver keeps of a graph of a few hundred launches.
BYTES_PER_GRAPH = 4 << 20

Replay = Callable[[], Any]
# Waits for what the stage before computed for so many positions; None where there is none.
Receive = Callable[[int], Tensor | None]
# Runs a function once, and returns what runs it again on the same memory.
Recorder = Callable[[Callable[[], Any]], Replay]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The size of a graph: steps that are no larger are padded to it.

    ``max_query_len`` 1 is for steps in which all rows decode.
    """

    num_tokens: int
    num_rows: int
    max_query_len: int
    max_context_len: int

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Of each of ``FlatStep.arrays``, filled up."""
        tokens, rows = self.num_tokens, self.num_rows
        return tokens, tokens, rows, rows + 1, rows, rows, rows, rows

    @property
    def is_decode(self) -> bool:
        """Whether every row has one token at most."""
        return self.max_query_len == 1

    def kept_bytes(self, row_bytes: int, part: Part = WHOLE) -> int:
        """What its inputs take, and its results, of ``row_bytes`` for each hidden state.

        Only the last stage's states are those of rows; what stages hand on are all tokens'.
        """
        num_inputs = sum(map(aligned, self.input_sizes))
        num_chosen = 2 * len(GRAPHED_NEEDS) * self.num_rows if self.is_decode else 0
        num_states = self.num_rows if part.is_last else self.num_tokens
        num_states += 0 if part.is_first else self.num_tokens
        return (num_inputs + num_chosen) * torch.int32.itemsize + num_states * row_bytes

    def holds(self, step: FlatStep) -> bool:
        """Whether the step fits."""
        return (
            step.num_tokens <= self.num_tokens
            and max(step.num_rows, len(step.sample_positions)) <= self.num_rows
            and step.max_query_len <= self.max_query_len
            and step.max_context_len <= self.max_context_len
        )


def buckets_for(limits: Limits) -> tuple[Bucket, ...]:
    """Every graph that a worker of these limits captures; the least that holds a step comes first.

    From 64 rows, or tokens, on a size is at most an eighth larger than the one before.
    """
    most_rows = min(limits.max_batch_size, limits.max_step_tokens)
    most_tokens = min(limits.max_step_tokens, max(MAX_GRAPHED_TOKENS, most_rows))
    contexts = [*(c for c in CONTEXT_BOUNDS if c < limits.max_context), limits.max_context]
    decodes = [
        Bucket(rows, rows, 1, context) for rows in _sizes(1, most_rows) for context in contexts
    ]
    mixed = [
        Bucket(tokens, most_rows, tokens, limits.max_context) for tokens in _sizes(64, most_tokens)
    ]
    return (*decodes, *mixed)


def graph_bytes(
    limits: Limits, step_bytes: int, row_bytes: int, logits_bytes: int, part: Part = WHOLE
) -> int:
    """About what all graphs of a ``part`` of a model take of a device's memory.

    They share one pool that holds the largest one's work, where the largest step takes
    ``step_bytes``. Each keeps its inputs and results, ``row_bytes`` for each hidden state. A row's
    logits are ``logits_bytes``.
    """
    buckets = buckets_for(limits)
    most = max(bucket.num_tokens for bucket in buckets)
    kept = sum(bucket.kept_bytes(row_bytes, part) + BYTES_PER_GRAPH for bucket in buckets)
    logits = logits_bytes * max(bucket.num_rows for bucket in buckets)
    return max(step_bytes * most // limits.max_step_tokens, logits) + kept


def _sizes(least: int, most: int) -> list[int]:
    """Powers of two up to 32, then eight sizes to each doubling, at last ``most``."""
    sizes, size = [], least
    while size < most:
        sizes.append(size)
        size += size if size < 32 else max(8, (1 << (size.bit_length() - 1)) // 8)
    return [*sizes, most]


class Computed(NamedTuple):
    """A step's forward, launched.

    Attributes:
        hidden: ``[>= S, H]``, what is sampled first, what prompts are scored by last; ``[T, H]`` of
            a stage that is not the last.
        sampled: the S rows.
        num_positions: positions that were computed, padding included.
        num_context: key positions that were attended to.
        choosers: what launches the choice of these rows' tokens, and writes them, by what it can.
    """

    hidden: Tensor
    sampled: SampledRows
    num_positions: int
    num_context: int
    choosers: Mapping[StepNeeds, Callable[[], Choice]] = {}


class _Graph:
    """One bucket's buffers, what replays it, and where it leaves its results."""

    def __init__(self, bucket: Bucket, model: Model) -> None:
        self.bucket = bucket
        self.inputs = Buffer(bucket.input_sizes, model.device)
        self.sampled = SampledRows(*self.inputs.views()[-2:])
        self.arrived: Tensor | None = None
        if not model.part.is_first:
            shape = (bucket.num_tokens, model.hidden_size)
            self.arrived = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.hidden: Tensor | None = None
        self.replay: Replay | None = None
        self.choices: dict[StepNeeds, Choice] = {}
        self.choosers: dict[StepNeeds, Callable[[], Choice]] = {}

    def choose(self, needs: StepNeeds, replay: Replay) -> Choice:
        """Launch the choice again."""
        replay()
        return self.choices[needs]


class GraphedSteps:
    """The graphs of a model over one cache and one table."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        table: RowTable,
        sampler: Sampler,
        buckets: Sequence[Bucket],
    ) -> None:
        self._model = model
        self._cache = cache
        self._table = table
        self._sampler = sampler
        self._graphs = [_Graph(bucket, model) for bucket in buckets]

    def __len__(self) -> int:
        return len(self._graphs)

    @torch.inference_mode()
    def capture(self, record: Recorder) -> Iterator[Bucket]:
        """Capture each graph, the largest first: the others find their memory in its pool.

        Yields each bucket that was captured. Nothing is written to the cache or the table.
        """
        nothing = FlatStep.of(())
        for graph in sorted(self._graphs, key=lambda graph: -graph.bucket.num_tokens):
            self._fill(graph, nothing)
            graph.replay = record(partial(self._compute, graph))
            for needs in GRAPHED_NEEDS if self._chooses_by(graph) else ():
                replay = record(partial(self._choose, graph, needs))
                graph.choosers[needs] = partial(graph.choose, needs, replay)
            yield graph.bucket

    def forward(self, rows: Sequence[Row], receive: Receive) -> Computed:
        """Replay the smallest graph that holds the rows; where none does, launch every kernel."""
        step = FlatStep.of(rows)
        graph = next((graph for graph in self._graphs if graph.bucket.holds(step)), None)
        if graph is None or graph.replay is None:
            batch, sampled = step.on_device(self._table)
            hidden = self._model.forward(batch, self._cache, receive(batch.num_positions))
            return Computed(hidden, sampled, batch.num_positions, batch.num_context)
        self._fill(graph, step)
        arrived = receive(step.num_tokens)
        if graph.arrived is not None and arrived is not None:
            graph.arrived[: step.num_tokens] = arrived
        graph.replay()
        assert graph.hidden is not None
        num_sampled = len(step.sampled_row_ids)
        num_given = len(step.sample_positions) if self._model.part.is_last else step.num_tokens
        return Computed(
            hidden=graph.hidden[:num_given],
            sampled=SampledRows(*(part[:num_sampled] for part in graph.sampled)),
            num_positions=graph.bucket.num_tokens,
            num_context=step.num_context,
            choosers=graph.choosers,
        )

    def _chooses_by(self, graph: _Graph) -> bool:
        """Whether its rows are sampled by graphs: ranks that share a vocabulary ask each other."""
        part = self._model.part
        return graph.bucket.is_decode and part.is_last and part.num_ranks == 1

    def _fill(self, graph: _Graph, step: FlatStep) -> None:
        graph.inputs.fill(step.arrays, step.paddings(self._table.nobody))

    def _compute(self, graph: _Graph) -> None:
        bounds = (graph.bucket.max_query_len, graph.bucket.max_context_len)
        batch, _ = on_device(graph.inputs.views(), self._table, bounds)
        graph.hidden = self._model.forward(batch, self._cache, graph.arrived)

    def _choose(self, graph: _Graph, needs: StepNeeds) -> None:
        assert graph.hidden is not None
        logits = self._model.logits(graph.hidden)
        graph.choices[needs] = choice = self._sampler.choose(logits, graph.sampled, needs)
        self._sampler.advance(choice, graph.sampled)


class CudaRecorder:
    """Captures CUDA graphs that share one pool of memory: they are replayed one at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Any]) -> Replay:
        """Compute once, so that every kernel is compiled and loaded, then capture."""
        compute()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            compute()
        return graph.replay
