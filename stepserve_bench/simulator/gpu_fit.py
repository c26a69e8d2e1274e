"""The costs of a step on a GPU, from what ``stepserve bench gpu`` measured of an 8B model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.simulator.cost import H200, QWEN3_8B, StepCosts, StepShape
from stepserve_bench.simulator.fit import Fit
from stepserve_bench.simulator.worker import paged_shape

_SIZE = QWEN3_8B
_MODEL = "8B"
_ATTENTION = "decode 256x1024 heads 32/8"
_CONTEXT = 1024
_ATTENTION_CONTEXT = 256 * _CONTEXT
_Rows = Sequence[Mapping[str, Any]]


def fit_gpu_results(path: Path) -> tuple[Fit, str]:
    """Return the fit to a file of ``stepserve bench gpu``, and the card that it is of.

    What a token of context costs is measured alone, in a layer; the fixed part and a row's are
    fitted to decoding steps by graphs, an operation's to steps of prompts. Raises InvalidRequest
    where the file is none, or has no steps of the model.
    """
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))["sections"]
        steps = [row for row in sections["steps"]["rows"] if row["what"].startswith(_MODEL)]
        layer_us = _only(sections["attention"]["rows"], _ATTENTION)["us"]
        card = _only(sections["card"]["rows"], "card")
        costs = _costs(steps, layer_us, card["bytes_per_s"])
        shapes = [
            (_shape(row), row["device_ms"] * 1e3) for row in _decodes(steps) + _prompts(steps)
        ]
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        problem = f"{path} has no steps of an {_MODEL} model as `bench gpu` writes them: {error!r}"
        raise InvalidRequest("fit", problem) from None
    errors = [abs(costs.duration_us(shape) / us - 1.0) for shape, us in shapes]
    times_us = [us for _, us in shapes]
    fit = Fit(costs, len(shapes), float(np.mean(errors)), float(np.mean(times_us)))
    return fit, card["name"]


def _costs(steps: _Rows, layer_us: float, bytes_per_s: float) -> StepCosts:
    decodes, bytes_us = _decodes(steps), 1e6 / bytes_per_s
    overhead_us = median((row["step_ms"] - row["device_ms"]) * 1e3 for row in decodes)
    context_us = layer_us * _SIZE.num_layers / _ATTENTION_CONTEXT
    fixed_us, row_us = _line(decodes, context_us)
    without = StepCosts(
        link_us=H200.link_us,
        overhead_us=overhead_us,
        weights_us=fixed_us - overhead_us,
        row_us=row_us,
        context_us=context_us,
        overlap=True,
        head_us=_SIZE.head_bytes * bytes_us,
        num_layers=_SIZE.num_layers,
    )
    position_us, pair_us = _computing(without, _prompts(steps))
    return replace(without, position_us=position_us, pair_us=pair_us)


def _line(decodes: _Rows, context_us: float) -> tuple[float, float]:
    """The fixed part and a row's of what is not context, by relative least squares."""
    times_us = np.array([row["device_ms"] * 1e3 for row in decodes])
    counts = np.array([[1.0, row["rows"]] for row in decodes])
    contexts_us = np.array([row["rows"] * row["context"] * context_us for row in decodes])
    scaled = counts / times_us[:, None], (times_us - contexts_us) / times_us
    fixed_us, row_us = np.linalg.lstsq(*scaled, rcond=None)[0]
    return float(fixed_us), float(row_us)


def _computing(costs: StepCosts, prompts: _Rows) -> tuple[float, float]:
    """What a position and a pair cost: the operations of each, at the rate of the prompts."""
    position = _SIZE.weight_bytes - _SIZE.head_bytes
    pair = 4.0 * _SIZE.attention_width * _SIZE.num_layers
    rates = []
    for row in prompts:
        shape = _shape(row)
        left_us = row["device_ms"] * 1e3 - costs.overhead_us - costs.row_us * shape.num_rows
        rates.append(left_us / (position * shape.num_positions + pair * shape.num_pairs))
    rate = float(np.mean(rates))
    return position * rate, pair * rate


def _decodes(steps: _Rows) -> list[Mapping[str, Any]]:
    """Greedy steps by graphs."""
    of_graphs = [row for row in steps if row["mode"] == "graph T=0"]
    return [row for row in of_graphs if row["what"] == f"{_MODEL} decode"]


def _prompts(steps: _Rows) -> list[Mapping[str, Any]]:
    """The better of a graph and none, for each kind of step."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in steps:
        if row["what"] == f"{_MODEL} prompts":
            best[row["rows"]] = min(
                row, best.get(row["rows"], row), key=lambda each: float(each["device_ms"])
            )
    return list(best.values())


def _shape(row: Mapping[str, Any]) -> StepShape:
    """Decodes at their context; or prompts, whole, beside decodes at that of `bench gpu`."""
    if "context" in row:
        count = int(row["rows"])
        return paged_shape([1] * count, [int(row["context"])] * count, 0, count)
    num_prompts, num_decodes = (int(part.split()[0]) for part in row["rows"].split(", "))
    chunk = (int(row["tokens"]) - num_decodes) // num_prompts
    counts = [chunk] * num_prompts + [1] * num_decodes
    return paged_shape(counts, [chunk] * num_prompts + [_CONTEXT] * num_decodes, 0, len(counts))


def _only(rows: _Rows, what: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["what"] == what)
