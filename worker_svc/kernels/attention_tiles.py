"""The sizes that attention's Triton kernels are launched with, and where they were measured.

Tiles change how fast a kernel is, not what it means. They are looked up by the card, the size of a
number and the head size. To try others, call ``attend_paged`` with them:

    call = AttentionCall(query, k_cache, v_cache, ragged, scale, window)
    tiles = tiles_for(card, query.element_size(), head_dim)
    for chunk in CHUNK_CANDIDATES:
        time(lambda: attend_paged(call, replace(tiles, chunk=chunk)))

``CHUNK_CANDIDATES`` and ``DECODE_CANDIDATES`` are what a sweep should try for 16-bit numbers and
heads of up to 128. What a card does not hold raises ``triton.runtime.errors.OutOfResources``.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class ChunkTile:
    """How the chunk kernel is launched.

    Attributes:
        num_lines: (token, query head) pairs of a program; more where one token has more heads.
        num_keys: keys that it takes in at a time.
        num_warps, num_stages: Triton's options.
        looks_ahead: the block ids of a tile of keys are read while the one before is computed,
            so that a stage holds keys and values only.
        overlaps: the scores of a tile of keys are computed beside the softmax of the one before.
    """

    num_lines: int
    num_keys: int
    num_warps: int
    num_stages: int
    looks_ahead: bool = False
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """How the decode kernel is launched.

    Attributes:
        num_keys, num_warps, num_stages, looks_ahead: as in ``ChunkTile``. Its lines are the query
            heads of one KV head, 16 at least.
        max_stages: where the device has few programs to change between there are more stages, up to
            so many.
        segment_len: the tokens that are summed apart, a multiple of ``num_keys``; more where a
            context is long. It decides the bits of a decode.
        programs_per_sm: contexts are split where there are fewer programs for each of the
            device's multiprocessors. It decides no bits.
    """

    num_keys: int
    num_warps: int
    num_stages: int
    looks_ahead: bool = False
    segment_len: int = 128
    programs_per_sm: float = 1.5
    max_stages: int = 3


@dataclass(frozen=True, slots=True)
class Tiles:
    """One of each."""

    chunk: ChunkTile
    decode: DecodeTile


# On sm_90 none of them spills registers.
CHUNK_CANDIDATES = [
    *(ChunkTile(128, 64, 8, stages, looks_ahead=True, overlaps=True) for stages in (2, 3)),
    *(ChunkTile(128, 32, 8, stages, looks_ahead=True, overlaps=True) for stages in (3, 4)),
    ChunkTile(64, 64, 4, 3, looks_ahead=True, overlaps=True),
    ChunkTile(64, 32, 4, 3, looks_ahead=True, overlaps=True),
    *(ChunkTile(128, 64, 8, stages, looks_ahead=True) for stages in (2, 3, 4)),
    ChunkTile(128, 128, 8, 2, looks_ahead=True),
    *(ChunkTile(128, 32, 8, stages, looks_ahead=True) for stages in (3, 4)),
    *(ChunkTile(128, 32, 4, stages, looks_ahead=True) for stages in (2, 3)),
    *(ChunkTile(64, 64, 4, stages, looks_ahead=True) for stages in (2, 3)),
    ChunkTile(64, 32, 4, 3, looks_ahead=True),
    ChunkTile(128, 64, 8, 3),
    ChunkTile(128, 32, 8, 4),
]
DECODE_CANDIDATES = [
    DecodeTile(num_keys, num_warps, num_stages, looks_ahead, segment_len)
    for num_keys, num_warps, num_stages, looks_ahead in (
        (64, 2, 2, True),
        (64, 2, 3, True),
        (64, 4, 2, True),
        (64, 4, 3, True),
        (128, 4, 2, False),
        (128, 4, 2, True),
        (128, 4, 3, True),
        (32, 2, 3, True),
        (32, 2, 4, True),
    )
    for segment_len in (128, 256, 512)
]
# By bytes of a number and padded head size: no registers are spilled on sm_80 and sm_90. Products
# of float32 as IEEE numbers use no tensor cores, hence the small ones.
DEFAULT_TILES = {
    (2, 64): Tiles(ChunkTile(128, 64, 8, 3, True), DecodeTile(64, 4, 2)),
    (2, 128): Tiles(ChunkTile(128, 32, 8, 3, True), DecodeTile(32, 4, 2, True)),
    (2, 256): Tiles(ChunkTile(64, 32, 8, 3, True), DecodeTile(32, 4, 2)),
    (4, 64): Tiles(ChunkTile(16, 32, 4, 2), DecodeTile(32, 4, 2)),
    (4, 128): Tiles(ChunkTile(16, 16, 4, 2), DecodeTile(16, 4, 1)),
    (4, 256): Tiles(ChunkTile(16, 16, 4, 2), DecodeTile(16, 4, 2)),
}
# What was measured: the card, as torch names it; the date is that of the measurement.
CARD_TILES = {
    # 2026-11-26, bench gpu --sweep: decodes reach 98 % of the copy bandwidth at 256 rows of 1,024,
    # chunks 448 TFLOP/s in one prompt of 8,192.
    "NVIDIA H200": {
        (2, 128): Tiles(ChunkTile(64, 64, 4, 3, True), DecodeTile(64, 2, 2, True, max_stages=4)),
    },
}


def tiles_for(card: str, element_size: int, head_dim: int) -> Tiles:
    """The tiles of numbers of ``element_size`` bytes and heads of ``head_dim`` numbers.

    What was not measured on the ``card`` has the defaults.
    """
    key = element_size, max(64, 1 << (head_dim - 1).bit_length())
    return CARD_TILES.get(card, {}).get(key, DEFAULT_TILES[key])
