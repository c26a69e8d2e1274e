"""The torch references against plain mathematics, torch's own functions and transformers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from tests.worker_svc.kernels.cases import (
    ATTENTION_CASES,
    AttentionCase,
    restriction_case,
    with_dtype,
)
from worker_svc.kernels import HeadNorms, RotaryWrite
from worker_svc.kernels.activation import silu_mul_reference
from worker_svc.kernels.attention import paged_attention_reference
from worker_svc.kernels.norm import add_rms_norm_reference, rms_norm_reference
from worker_svc.kernels.philox import philox_reference, uniforms_reference
from worker_svc.kernels.restrict import Restriction, restrict_reference
from worker_svc.kernels.rotary import rotary_write_reference
from worker_svc.kernels.sampling import categorical_reference

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("case", with_dtype(torch.float64), ids=str)
def test_attention_is_sdpa_over_each_rows_context(case: AttentionCase) -> None:
    arguments = case.build()
    output = paged_attention_reference(**arguments)
    ragged, group = arguments["ragged"], case.num_heads // case.num_kv_heads
    for row, (query_len, context_len) in enumerate(case.rows):
        table = ragged.block_tables[ragged.row_ids[row]]
        start = int(ragged.query_starts[row])
        query = arguments["query"][start : start + query_len].transpose(0, 1)
        keys, values = (
            torch.stack(
                [
                    arguments[cache][table[at // case.block_size], :, at % case.block_size]
                    for at in range(context_len)
                ],
                dim=1,
            ).repeat_interleave(group, 0)
            for cache in ("k_cache", "v_cache")
        )
        distance = torch.arange(context_len - query_len, context_len)[:, None] - torch.arange(
            context_len
        )
        mask = (distance >= 0) & (distance < (case.window or context_len))
        expected = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=arguments["scale"]
        )
        torch.testing.assert_close(output[start : start + query_len], expected.transpose(0, 1))


@pytest.mark.parametrize("window", [0, 9])
def test_attention_in_parts_is_the_same(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = AttentionCase(((20, 33), (1, 9), (7, 7)), window=window).build()
    whole = paged_attention_reference(**arguments)
    monkeypatch.setattr("worker_svc.kernels.attention.MAX_QUERIES", 6)
    torch.testing.assert_close(paged_attention_reference(**arguments), whole)


def test_attention_of_16_bit_inputs_is_computed_in_float32() -> None:
    arguments = ATTENTION_CASES[0].build()
    halves = {name: arguments[name].bfloat16() for name in ("query", "k_cache", "v_cache")}
    wide = {name: tensor.float() for name, tensor in halves.items()}
    output = paged_attention_reference(**{**arguments, **halves})
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, paged_attention_reference(**{**arguments, **wide}).bfloat16())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rms_norm_has_the_bits_of_transformers(dtype: torch.dtype) -> None:
    x, residual, weight = torch.randn(5, 48), torch.randn(5, 48), torch.randn(48)
    theirs = LlamaRMSNorm(48, eps=1e-5)
    theirs.weight.data = weight.to(dtype)
    x, residual = x.to(dtype), residual.to(dtype)
    assert torch.equal(rms_norm_reference(x, weight.to(dtype), 1e-5), theirs(x))
    normed, total = add_rms_norm_reference(x, residual, weight.to(dtype), 1e-5)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, theirs(x + residual))


@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_has_the_bits_of_transformers_and_lands_in_its_slots(
    dtype: torch.dtype, has_norms: bool
) -> None:
    num_tokens, head_dim, block_size = 5, 12, 4
    query, key, value = (torch.randn(num_tokens, heads, head_dim).to(dtype) for heads in (6, 2, 2))
    angles = torch.arange(20)[:, None] * 100.0 ** -(torch.arange(head_dim // 2) / head_dim)
    caches = torch.full((2, 3, 2, block_size, head_dim), 7.0, dtype=dtype)
    positions = torch.tensor([0, 19, 3, 4, 5], dtype=torch.int32)
    slots = torch.tensor([11, 0, -1, 5, -3], dtype=torch.int32)
    args = RotaryWrite(angles.cos().to(dtype), angles.sin().to(dtype), positions, slots, *caches)
    normed = [query, key]
    if has_norms:
        norms = [LlamaRMSNorm(head_dim, eps=1e-6) for _ in normed]
        for norm in norms:
            norm.weight.data = torch.randn(head_dim).to(dtype)
        normed = [norm(x) for norm, x in zip(norms, normed, strict=True)]
        weights = (norm.weight.data for norm in norms)
        args = replace(args, norms=HeadNorms(*weights, 1e-6))
    cos, sin = (table[positions].repeat(1, 2)[None] for table in (args.cos, args.sin))
    theirs = apply_rotary_pos_emb(
        *(x.transpose(0, 1)[None] for x in normed), cos, sin, unsqueeze_dim=1
    )
    expected_query, expected_key = (tensor[0].transpose(0, 1) for tensor in theirs)
    rotary_write_reference(query, key, value, args)
    assert torch.equal(query, expected_query)
    cached = args.k_cache.transpose(1, 2).reshape(-1, 2, head_dim)
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            assert torch.equal(cached[slot], expected_key[token])
            assert torch.equal(args.v_cache[slot // block_size, :, slot % block_size], value[token])
    untouched = [slot for slot in range(12) if slot not in slots.tolist()]
    assert (cached[untouched] == 7).all()


def test_silu_mul() -> None:
    gate, up = torch.randn(3, 10, dtype=torch.float64), torch.randn(3, 10, dtype=torch.float64)
    expected = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(silu_mul_reference(torch.cat((gate, up), -1)), expected)


@pytest.mark.parametrize("begin", [0, 37])
def test_restrict_writes_the_floor_where_the_bit_is_not_set(begin: int) -> None:
    logits, (at, masks, floors) = restriction_case(100, torch.float64, begin)
    expected = logits.clone()
    for row, mask, floor in zip(at, masks.tolist(), floors, strict=True):
        for column in range(100):
            word, bit = divmod(begin + column, 32)
            if not mask[word] >> bit & 1:
                expected[row, column] = floor
    restrict_reference(logits, Restriction(at, masks, floors), begin)
    assert torch.equal(logits.nan_to_num(5.0), expected.nan_to_num(5.0))


def test_categorical_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.125, 0.0, 0.5, 0.25, 0.125, 0.0])
    uniforms = torch.tensor([0.0, 0.124, 0.125, 0.624, 0.625, 0.874, 0.876, 1 - 2**-24])
    logits = probabilities.log().expand(len(uniforms), -1) + 3.0
    assert categorical_reference(logits, uniforms).tolist() == [1, 1, 3, 3, 4, 4, 5, 5]


def test_categorical_never_draws_what_is_cut_off() -> None:
    logits = torch.full((2, 1000), -math.inf)
    logits[0, 997] = -1e30
    logits[1, 0] = 1e30
    for uniform in (0.0, 0.5, 1 - 2**-53):
        uniforms = torch.full((2,), uniform, dtype=torch.float64)
        assert categorical_reference(logits, uniforms).tolist() == [997, 0]


def test_categorical_draws_as_often_as_likely() -> None:
    logits = torch.randn(50)
    num_draws = 100_000
    uniforms = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    ids = categorical_reference(logits.expand(num_draws, -1), uniforms)
    frequencies = ids.bincount(minlength=50) / num_draws
    torch.testing.assert_close(frequencies, logits.softmax(0), rtol=0, atol=2 / num_draws)


# Known answers of the Random123 library, philox4x32 with 10 rounds: counter and key, result.
KNOWN_ANSWERS = {
    "00000000 00000000 00000000 00000000 00000000 00000000": "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff": "408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0": "d16cfe09 94fdcceb 5001e420 24126ea1",
}


@pytest.mark.parametrize(("given", "result"), KNOWN_ANSWERS.items())
def test_philox_gives_the_known_answers(given: str, result: str) -> None:
    words = [torch.tensor([int(word, 16)]) for word in given.split()]
    drawn = philox_reference(tuple(words[:4]), tuple(words[4:]))
    assert " ".join(f"{int(word):08x}" for word in drawn) == result


def test_uniforms_differ_by_seed_index_and_offset_and_fill_the_unit_interval() -> None:
    count = 20_000
    offsets, zeros = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    drawn = [
        uniforms_reference(zeros, zeros, offsets),
        uniforms_reference(offsets + 1, zeros, zeros),
        uniforms_reference(zeros + (1 << 63), zeros, offsets),
        uniforms_reference(zeros, offsets + 1, zeros),
        uniforms_reference(zeros, zeros, offsets + (1 << 32)),
    ]
    everything = torch.cat(drawn)
    assert everything.unique().numel() == everything.numel()
    assert 0 <= everything.min() < 1e-3
    assert 1 - 1e-3 < everything.max() < 1
    for numbers in drawn:
        assert abs(numbers.mean() - 0.5) < 5 * math.sqrt(1 / 12 / count)


def test_a_uniform_is_these_bits_for_ever() -> None:
    """Jobs in flight at an upgrade must go on with the same noise."""
    seeds = torch.tensor([0, 42, -1])
    numbers = uniforms_reference(seeds, torch.tensor([0, 1, 2]), torch.tensor([0, 7, 1 << 33]))
    assert numbers.dtype == torch.float64
    assert float(numbers[0]) == ((0x6627E8D5 >> 5) * 2**26 + (0xE169C58D >> 6)) / 2**53
    assert [number.hex() for number in numbers.tolist()[1:]] == [
        "0x1.31e3112940e1ap-2",
        "0x1.4843bc3c44daep-2",
    ]
