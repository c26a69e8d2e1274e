"""Counter-based uniform numbers: the same (seed, index, offset) gives the same number anywhere.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", Philox4x32-10 (section 3.3),
with the constants of the Random123 library. The key is the 64-bit seed; the counter's four words
are the offset's low and high half, the index, and zero. The first two words that come out make 53
bits. Nothing is carried from one draw to the next, so a draw does not depend on the batch it is
made in, on the device, or on a crash before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUND_A = 0xD2511F53
ROUND_B = 0xCD9E8D57
WEYL_A = 0x9E3779B9
WEYL_B = 0xBB67AE85
NUM_ROUNDS = 10
_WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def uniforms_reference(seeds: Tensor, indexes: Tensor, offsets: Tensor) -> Tensor:
    """Uniform numbers in ``[0, 1)`` with 53 bits.

    Args:
        seeds: ``[S]`` int64, the bits of an unsigned 64-bit seed.
        indexes: ``[S]`` int32 or int64, which output of the job, below 2**32.
        offsets: ``[S]`` int32 or int64, the token's index in the output, from 0.

    Returns:
        ``[S]`` float64.
    """
    offsets = offsets.to(torch.int64)
    counter = (offsets & _WORD, _high(offsets), indexes.to(torch.int64), torch.zeros_like(seeds))
    first, second, _, _ = philox_reference(counter, (seeds & _WORD, _high(seeds)))
    mantissa = (first >> 5) * (1 << 26) + (second >> 6)
    return mantissa.to(torch.float64) * 2.0**-53


def philox_reference(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Philox4x32-10: four words from four words and a key of two; int64 tensors below 2**32."""
    word0, word1, word2, word3 = counter
    key0, key1 = key
    for _ in range(NUM_ROUNDS):
        # The product wraps to 64 bits; its sign bit is data, which the masks restore.
        product_a, product_b = word0 * ROUND_A, word2 * ROUND_B
        word0 = _high(product_b) ^ word1 ^ key0
        word2 = _high(product_a) ^ word3 ^ key1
        word1, word3 = product_b & _WORD, product_a & _WORD
        key0, key1 = (key0 + WEYL_A) & _WORD, (key1 + WEYL_B) & _WORD
    return word0, word1, word2, word3


def _high(bits: Tensor) -> Tensor:
    return (bits >> 32) & _WORD
