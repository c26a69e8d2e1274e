"""How long a step takes: from what it computes and reads to microseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from stepserve.protocol.errors import InvalidRequest


class StepShape(NamedTuple):
    """What one step computes, padding included.

    ``num_positions`` go through the token-wise layers. ``num_context`` positions of the KV
    cache are read; ``num_pairs`` are (query, key) pairs of the attention. ``num_groups`` are
    attention calls, ``num_sampled`` rows whose next token is chosen. ``num_useful`` is the part
    of the positions that no padding made.
    """

    num_rows: int
    num_positions: int
    num_context: int
    num_pairs: int
    num_groups: int
    num_sampled: int
    num_useful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """Microseconds: fixed ones, and one for each of what a ``StepShape`` counts.

    ``link_us`` passes between the lane and its worker, each way, beside the step itself; costs
    that were fitted to the time between reports have it in their overhead.
    ``head_us`` of the ``weights_us`` are the output projection's; the others, and what is computed
    for a position, belong to ``num_layers`` layers alike (0: it can be cut anywhere).
    Memory time (weights and the context) and compute time (positions and pairs) add up, or,
    where they ``overlap`` as on a GPU, the longer of the two counts (the roofline).
    """

    link_us: float = 0.0
    overhead_us: float = 0.0
    weights_us: float = 0.0
    row_us: float = 0.0
    group_us: float = 0.0
    sampled_us: float = 0.0
    context_us: float = 0.0
    position_us: float = 0.0
    pair_us: float = 0.0
    overlap: bool = False
    head_us: float = 0.0
    num_layers: int = 0

    def duration_us(self, shape: StepShape) -> float:
        """Return how long a step of this shape takes."""
        memory_us = self.weights_us + self.context_us * shape.num_context
        compute_us = self.position_us * shape.num_positions + self.pair_us * shape.num_pairs
        return (
            self.overhead_us
            + self.row_us * shape.num_rows
            + self.group_us * shape.num_groups
            + self.sampled_us * shape.num_sampled
            + (max(memory_us, compute_us) if self.overlap else memory_us + compute_us)
        )

    def split(self, num_stages: int) -> tuple[StepCosts, ...]:
        """Return the costs of each of so many stages: each has a part of the layers.

        The last one has the output projection, too, and chooses the tokens; it has so many layers
        less that all take as long. What is fixed in a step is fixed in each stage's part of it.
        """
        if num_stages == 1:
            return (self,)
        return tuple(
            self._part(count, is_last=number == num_stages)
            for number, count in enumerate(self._layer_counts(num_stages), start=1)
        )

    @property
    def _head_layers(self) -> float:
        """How many layers' weights the output projection's are."""
        layers_us = self.weights_us - self.head_us
        return self.head_us * (self.num_layers or 1) / layers_us if layers_us else 0.0

    def _layer_counts(self, num_stages: int) -> list[float]:
        """Layers of each stage, such that the longest stage is as short as it can be."""
        others, head = num_stages - 1, self._head_layers
        if not self.num_layers:
            last = max(0.0, (1 + head) / num_stages - head)
            return [(1 - last) / others] * others + [last]

        def longest(last: int) -> float:
            return max(-(-(self.num_layers - last) // others), last + head)

        last = min(range(self.num_layers + 1), key=longest)
        fewest, more = divmod(self.num_layers - last, others)
        return [float(fewest + (i < more)) for i in range(others)] + [float(last)]

    def _part(self, num_layers: float, is_last: bool) -> StepCosts:
        share = num_layers / (self.num_layers or 1)
        return replace(
            self,
            weights_us=(self.weights_us - self.head_us) * share + self.head_us * is_last,
            head_us=self.head_us * is_last,
            sampled_us=self.sampled_us * is_last,
            row_us=self.row_us * share,
            group_us=self.group_us * share,
            context_us=self.context_us * share,
            position_us=self.position_us * share,
            pair_us=self.pair_us * share,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What Redis takes, in microseconds: as measured on 2 cores, 0.35 ms to commit 16 rows and
    1.2 ms for 256.
    """

    commit_us: float = 300.0
    commit_row_us: float = 3.5
    claim_us: float = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU by its limits: bytes/s and flop/s as measured, and the share that engines reach."""

    bytes_per_s: float
    flops_per_s: float
    efficiency: float
    overhead_us: float
    link_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A model in numbers: 16-bit weights without the input embedding, and its attention."""

    weight_bytes: float
    head_bytes: float  # Of the weights, those of the output projection.
    kv_bytes: float  # Of one token's keys and values in all layers.
    attention_width: int  # Query heads times head size.
    num_layers: int

    def on(self, gpu: Gpu) -> StepCosts:
        """Return the roofline's costs: two flops a weight and position, four a pair and width."""
        bytes_us = 1e6 / (gpu.bytes_per_s * gpu.efficiency)
        flops_us = 1e6 / (gpu.flops_per_s * gpu.efficiency)
        return StepCosts(
            link_us=gpu.link_us,
            overhead_us=gpu.overhead_us,
            weights_us=self.weight_bytes * bytes_us,
            # A kernel more in each layer, 3 us each.
            group_us=3.0 * self.num_layers,
            sampled_us=self.head_bytes * flops_us,
            context_us=self.kv_bytes * bytes_us,
            position_us=(self.weight_bytes - self.head_bytes) * flops_us,
            pair_us=4.0 * self.attention_width * self.num_layers * flops_us,
            overlap=True,
            head_us=self.head_bytes * bytes_us,
            num_layers=self.num_layers,
        )


# An H200 copies 4.3 TB/s and multiplies 790 TFLOP/s in bfloat16 (measured); engines reach 64 to
# 85 % of such floors with Qwen3-8B (SGLang's deterministic-inference post, September 2025).
# A command and its report pass gRPC in half a millisecond (measured on 2 cores).
H200 = Gpu(bytes_per_s=4.3e12, flops_per_s=790e12, efficiency=0.7, overhead_us=300.0, link_us=250.0)
# Sizes follow from the models' published configurations (36, 28 layers; 8 KV heads of 128).
QWEN3_8B = ModelSize(
    weight_bytes=15.14e9, head_bytes=1.245e9, kv_bytes=147_456, attention_width=4096, num_layers=36
)
QWEN3_0_6B = ModelSize(
    weight_bytes=1.19e9, head_bytes=0.311e9, kv_bytes=114_688, attention_width=2048, num_layers=28
)
PRESETS: Mapping[str, StepCosts] = {
    "h200-qwen3-8b": QWEN3_8B.on(H200),
    "h200-qwen3-0.6b": QWEN3_0_6B.on(H200),
}

Costs = Mapping[str, StepCosts]  # By attention.
COMPUTED = "computed from data sheets, not validated by measurement"


def costs_for(costs: Costs, attention: str) -> StepCosts:
    """Return the costs of this attention, or the ones that are for any. Raises InvalidRequest."""
    found = costs.get(attention) or costs.get("any")
    if found is None:
        known = ", ".join(costs)
        raise InvalidRequest("costs", f"none for attention {attention!r}, only for {known}")
    return found


def read_costs(name: str) -> Costs:
    """Return a preset by its name, or what ``add_costs`` wrote. Raises InvalidRequest."""
    if name in PRESETS:
        return {"any": PRESETS[name]}
    try:
        document = json.loads(Path(name).read_text(encoding="utf-8"))
        return {attention: StepCosts(**values) for attention, values in document["costs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        known = ", ".join(PRESETS)
        problem = f"{name!r} is neither {known} nor a file of costs: {error}"
        raise InvalidRequest("costs", problem) from None


def about_costs(name: str) -> dict[str, Any]:
    """Return the costs' name and where they are from, for the reader of what they gave.

    For a file of ``add_costs`` that is, by attention, what its fit said. Raises InvalidRequest.
    """
    if name in PRESETS:
        return {"name": name, "source": COMPUTED}
    read_costs(name)
    document = json.loads(Path(name).read_text(encoding="utf-8"))
    return {"name": Path(name).name, "source": document.get("about") or "unknown"}


def costs_in_words(about: Mapping[str, Any]) -> str:
    """Return what ``about_costs`` found in a line."""
    source = about["source"]
    if isinstance(source, str):
        return f"costs: {about['name']}, {source}"
    fits = (f"{attention} {_fit_in_words(fit)}" for attention, fit in sorted(source.items()))
    return f"costs: {about['name']}, fitted to steps: {'; '.join(fits)}"


def _fit_in_words(fit: Mapping[str, Any]) -> str:
    error, machine = fit.get("error_mean"), fit.get("measured_on", "an unknown machine")
    told = "an unknown error" if error is None else f"{error:.1%} mean error"
    return f"with {told} on its own {fit.get('num_steps', '?')} steps, measured on {machine}"


def add_costs(path: Path, costs: Costs, about: Mapping[str, object]) -> None:
    """Write the costs, and by attention what they were fitted from, beside those that are there.

    Raises InvalidRequest where there is another file.
    """
    kept = read_costs(str(path)) if path.exists() else {}
    known = json.loads(path.read_text(encoding="utf-8"))["about"] if kept else {}
    merged = {**kept, **costs}
    document = {
        "costs": {name: asdict(merged[name]) for name in sorted(merged)},
        "about": {**known, **about},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
