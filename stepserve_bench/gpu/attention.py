"""The attention kernels' times beside what memory and arithmetic allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from stepserve_bench.gpu.floors import share
from stepserve_bench.gpu.geometry import attention_flops
from stepserve_bench.gpu.inputs import AttentionShape, attention_inputs
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.timing import Launch, launch_us, num_copies
from worker_svc.kernels import Kernels

Named = tuple[str, AttentionShape]

# As a serving worker's graphs are captured: every row could be as long as this.
BOUND = 8192


def decodes(num_rows: int, context: int, heads: tuple[int, int], bound: int = 0) -> Named:
    """Rows of one token each, named ``ROWSxCONTEXT heads Q/KV``."""
    rows = ((1, context),) * num_rows
    name = f"{num_rows}x{context} heads {heads[0]}/{heads[1]}"
    return f"{name} bound {bound}" if bound else name, AttentionShape(rows, *heads, bound=bound)


def chunks(name: str, rows: Sequence[tuple[int, int]]) -> Named:
    """Rows of several tokens, of an 8B model's heads."""
    return name, AttentionShape(tuple(rows), 32, 8)


LARGE, SMALL = (32, 8), (16, 8)
DECODES = (
    decodes(256, 1024, LARGE),
    decodes(256, 1024, LARGE, BOUND),
    decodes(32, 4096, LARGE),
    decodes(32, 4096, LARGE, BOUND),
    decodes(64, 1024, LARGE),
    decodes(1, 1024, LARGE),
    decodes(1, 8192, LARGE),
    decodes(256, 600, SMALL),
    decodes(64, 600, SMALL),
    decodes(16, 600, SMALL),
    decodes(1, 600, SMALL),
    decodes(1, 600, SMALL, BOUND),
)
CHUNKS = (
    chunks("1x8192", [(8192, 8192)]),
    chunks("8x1024", [(1024, 1024)] * 8),
    chunks("4x512 after 3584", [(512, 4096)] * 4),
    chunks("64 decodes + 1984 of 2000", [(1, 1000)] * 64 + [(1984, 2000)]),
)


def attention(setup: Setup) -> Iterator[Row]:
    """Yield a row for each shape, decodes by bytes, chunks by operations; torch's own beside."""
    if setup.is_small:
        shape = AttentionShape(((1, 64),) * 4, 4, 2, 16, dtype=torch.float32)
        yield _decode_row(setup, ("4x64 heads 4/2", shape))
        return
    for named in DECODES:
        yield _decode_row(setup, named)
    for named in CHUNKS:
        yield _chunk_row(setup, named)
    yield _flash_row(setup)


def attention_launches(shape: AttentionShape, kernels: Kernels, setup: Setup) -> list[Launch]:
    """Launches that read other inputs each time, as many as it takes to find none in a cache."""
    copies = num_copies(shape.cache_bytes) if setup.is_gpu else 1
    inputs = [attention_inputs(shape, setup.device, seed) for seed in range(copies)]
    return [partial(kernels.paged_attention, *each.arguments()) for each in inputs]


def _decode_row(setup: Setup, named: Named) -> Row:
    name, shape = named
    measured = launch_us(attention_launches(shape, setup.kernels(), setup), setup.device)
    floor = setup.ceilings.us(shape.traffic_bytes)
    return {
        "what": f"decode {name}",
        "us": measured,
        "floor_us": floor,
        "share": share(floor, measured),
        "gb_per_s": shape.traffic_bytes / measured / 1e3,
        "figures": {f"decode {name}": share(floor, measured)},
    }


def _chunk_row(setup: Setup, named: Named) -> Row:
    name, shape = named
    measured = launch_us(attention_launches(shape, setup.kernels(), setup), setup.device)
    return _flops_row(f"chunk {name}", shape, measured, setup)


def _flash_row(setup: Setup) -> Row:
    """What torch's own attention (FlashAttention) makes of the first of ``CHUNKS``, not paged."""
    _, shape = CHUNKS[0]
    length = shape.num_tokens
    query, key, value = (
        torch.randn(1, heads, length, shape.head_dim, device=setup.device).to(shape.dtype)
        for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    )
    compute = torch.nn.functional.scaled_dot_product_attention
    launch = partial(compute, query, key, value, is_causal=True, enable_gqa=True)
    return _flops_row("torch's attention 1x8192", shape, launch_us([launch], setup.device), setup)


def _flops_row(name: str, shape: AttentionShape, measured: float, setup: Setup) -> Row:
    flops = attention_flops(shape.rows, shape.num_heads * shape.head_dim)
    floor = setup.ceilings.us(shape.traffic_bytes, flops)
    tflops = flops / measured / 1e6
    return {
        "what": name,
        "us": measured,
        "floor_us": floor,
        "share": share(floor, measured),
        "tflop_per_s": tflops,
        "figures": {f"{name} TFLOP/s": round(tflops, 1)},
    }
