"""Tiles of the attention kernels: every candidate compiled, compared and timed; the best ones last.

Candidates are compiled in processes side by side, each compared with the reference on a small
shape, and timed here one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import date
from functools import partial

import torch

from stepserve.protocol.errors import one_line
from stepserve_bench.gpu.attention import CHUNKS, LARGE, SMALL, Named, decodes
from stepserve_bench.gpu.case import TOLERANCES, relative_error
from stepserve_bench.gpu.child import forked_map, num_cores
from stepserve_bench.gpu.floors import share
from stepserve_bench.gpu.geometry import attention_flops
from stepserve_bench.gpu.inputs import AttentionShape, attention_inputs
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.timing import launch_us, num_copies
from stepserve_bench.gpu.trials import ELEMENT_SIZE, HEAD_DIM, Trial, best_overall, trials
from worker_svc.kernels import select

BOUND = 4096
TIMED_DECODES = (
    decodes(256, 1024, LARGE, BOUND),
    decodes(32, 4096, LARGE, BOUND),
    decodes(64, 1024, LARGE, BOUND),
    decodes(1, 4000, LARGE, BOUND),
    decodes(256, 600, SMALL, BOUND),
    decodes(64, 600, SMALL, BOUND),
)
TIMED_CHUNKS = (CHUNKS[0], CHUNKS[1], CHUNKS[2])
# What every candidate must compute rightly before it is timed: one segment, and several.
PROBES = {
    "decode": (
        AttentionShape(((1, 70), (1, 300), (1, 0), (1, 16)), *LARGE),
        AttentionShape(((1, 70), (1, 300), (1, 0), (1, 2500)), *LARGE, bound=BOUND),
        AttentionShape(((1, 70), (1, 300)), *SMALL),
    ),
    "chunk": (AttentionShape(((300, 700), (5, 9), (129, 129)), *LARGE),),
}
SHOWN = 5
# Of the time that is left then: the chunks have fewer candidates, and come last.
BUDGET_SHARES = {"decode": 0.6, "chunk": 0.9}
COMPILE_SHARE = 0.5
MAX_PROCESSES = 15


def sweep(setup: Setup) -> Iterator[Row]:
    """Yield what was refused, the best tiles for each shape, and the line for the tiles' table."""
    if not setup.is_gpu:
        yield {"what": "sweep", "skipped": "tiles are timed on a GPU"}
        return
    usable: list[Trial] = []
    yield from _compiled(setup, usable)
    chosen: dict[str, Trial] = {}
    for kind, shapes in (("decode", TIMED_DECODES), ("chunk", TIMED_CHUNKS)):
        mine = [trial for trial in usable if trial.kind == kind]
        budget_s = setup.left_s * BUDGET_SHARES[kind] / len(shapes)
        timed: dict[str, dict[Trial, float]] = {}
        for named in shapes:
            row, timed[named[0]] = _timed_row(setup, named, mine, budget_s)
            yield row
        chosen[kind], losses = best_overall(timed)
        yield {"what": f"{kind} in all", "tile": repr(chosen[kind].tile), "slower_by": losses}
    yield {"what": "table", "text": table_entry(torch.cuda.get_device_name(0), chosen)}


def _compiled(setup: Setup, usable: list[Trial]) -> Iterator[Row]:
    """Add to ``usable`` what compiles and is right; yield a row about the others."""
    candidates = trials(setup.is_quick)
    probe, processes = partial(_probed, setup.device), min(MAX_PROCESSES, num_cores())
    refused, wrong = [], []
    try:
        for found in forked_map(probe, candidates, processes, setup.left_s * COMPILE_SHARE):
            if found.refused:
                refused.append(f"{found.trial}: {found.refused}")
            elif found.fault:
                wrong.append(f"{found.trial}: {found.fault}")
            else:
                usable.append(found.trial)
    except TimeoutError:
        done = len(usable) + len(refused) + len(wrong)
        yield {"what": "compiling", "error": f"out of time: {done} of {len(candidates)} done"}
    counts = {"usable": len(usable), "too_large": len(refused), "wrong": len(wrong)}
    yield {"what": "candidates", **counts, "all": refused}
    for text in wrong[:SHOWN]:
        yield {"what": "candidates", "fault": text}


def table_entry(card: str, chosen: Mapping[str, Trial]) -> str:
    """The card's entry in ``attention_tiles.CARD_TILES``."""
    chunk, decode = (astuple(chosen[kind].tile) for kind in ("chunk", "decode"))
    return (
        f"    # {date.today().isoformat()}\n"
        f'    "{card}": {{\n'
        f"        ({ELEMENT_SIZE}, {HEAD_DIM}): Tiles(ChunkTile{chunk}, DecodeTile{decode}),\n"
        "    },"
    )


@dataclass(frozen=True, slots=True)
class _Probe:
    trial: Trial
    refused: str = ""
    fault: str = ""


def _probed(device: torch.device, trial: Trial) -> _Probe:
    """Compile and compare. What needs more than the card has is refused, and no fault."""
    from triton.runtime.errors import OutOfResources

    try:
        for number, shape in enumerate(PROBES[trial.kind]):
            inputs = attention_inputs(shape, device, number, is_poisoned=True)
            wanted = select("torch", device).paged_attention(*inputs.widened().arguments())
            error = relative_error(trial.attend(inputs), wanted)
            if not error <= TOLERANCES[shape.dtype]:
                return _Probe(trial, fault=f"error {error:.2e}")
    except OutOfResources as error:
        return _Probe(trial, refused=one_line(error))
    except Exception as error:
        return _Probe(trial, fault=one_line(error))
    return _Probe(trial)


def _timed_row(
    setup: Setup, named: Named, candidates: Sequence[Trial], budget_s: float
) -> tuple[Row, dict[Trial, float]]:
    """Time every candidate on one shape, as long as there is time; the best first."""
    name, shape = named
    copies = num_copies(shape.cache_bytes)
    inputs = [attention_inputs(shape, setup.device, seed) for seed in range(copies)]
    end_s = time.monotonic() + budget_s
    found: dict[Trial, float] = {}
    for trial in candidates:
        if time.monotonic() > end_s:
            break
        found[trial] = launch_us([partial(trial.attend, each) for each in inputs], setup.device)
    order = sorted(found, key=lambda trial: found[trial])
    row: Row = {
        "what": name,
        "timed": f"{len(found)} of {len(candidates)}",
        "best": [f"{trial}: {_figure(setup, shape, found[trial])}" for trial in order[:SHOWN]],
        "all": [[str(trial), round(found[trial], 2)] for trial in order],
    }
    return row, found


def _figure(setup: Setup, shape: AttentionShape, us: float) -> str:
    flops = attention_flops(shape.rows, shape.num_heads * shape.head_dim)
    floor = setup.ceilings.us(shape.traffic_bytes, flops)
    return f"{us:.1f} us, {share(floor, us):.3f} of the floor, {flops / us / 1e6:.0f} TFLOP/s"
