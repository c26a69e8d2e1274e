"""The small compiled CPU kernels mean what their torch references mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.worker_svc.kernels.cases import restriction_case
from worker_svc.kernels import HeadNorms, RotaryWrite, select
from worker_svc.kernels.norm_cpu import MAX_SERIAL_NUMBERS
from worker_svc.kernels.sampling import categorical_reference
from worker_svc.kernels.sampling_cpu import categorical_cpu

CPU, TORCH = select("cpu", "cpu"), select("torch", "cpu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 192), (17, 80), (0, 64)], ids=str)
def test_add_rms_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, residual = random(shape[0], 2 * shape[1], dtype=dtype)[:, : shape[1]], random(*shape, seed=1)
    arguments = (x, residual.to(dtype), random(shape[1], dtype=dtype, seed=2), 1e-5)
    normed, total = CPU.add_rms_norm(*arguments)
    expected, expected_total = TORCH.add_rms_norm(*arguments)
    assert torch.equal(total, expected_total)
    exact = {"rtol": 0, "atol": 0}
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float32 else exact
    torch.testing.assert_close(normed, expected, **tolerance)


def test_a_row_is_normed_to_the_same_bits_in_any_batch() -> None:
    x, weight = random(9, 100), random(100, seed=1)
    together, _ = CPU.add_rms_norm(x, x, weight, 1e-5)
    for row in range(9):
        alone, _ = CPU.add_rms_norm(x[row : row + 1], x[row : row + 1], weight, 1e-5)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("head_dim", [2, 24, 64])
def test_rotary_write_has_the_bits_of_the_reference(
    dtype: torch.dtype, head_dim: int, has_norms: bool
) -> None:
    norms = HeadNorms(*random(2, head_dim, dtype=dtype, seed=2), 1e-6) if has_norms else None
    results = []
    for kernels in (CPU, TORCH):
        query, key, value = random(6, 15, head_dim, dtype=dtype).split((9, 3, 3), dim=1)
        cos, sin = random(2, 20, head_dim // 2, dtype=dtype, seed=1)
        caches = torch.zeros(2, 4, 3, 8, head_dim, dtype=dtype)
        positions = torch.tensor([0, 19, 3, 3, 7, 1], dtype=torch.int32)
        slots = torch.tensor([3, -1, 7, 12, 31, 0], dtype=torch.int32)
        args = RotaryWrite(cos, sin, positions, slots, *caches, norms)
        kernels.rotary_write(query, key, value, args)
        results.append((query, key, value, *caches))
    for drawn, expected in zip(*results, strict=True):
        assert torch.equal(drawn, expected)


def test_large_steps_on_several_threads_take_the_reference() -> None:
    x, weight = random(MAX_SERIAL_NUMBERS // 128 + 1, 128), random(128, seed=1)
    torch.set_num_threads(2)
    normed, _ = CPU.add_rms_norm(x, x, weight, 1e-5)
    assert torch.equal(normed, TORCH.add_rms_norm(x, x, weight, 1e-5)[0])


def truncated(vocab_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of which few and rows of which most tokens may be drawn; numbers at the ends."""
    generator = torch.Generator().manual_seed(vocab_size)
    chances = torch.rand(24, vocab_size, generator=generator)
    kept = chances < torch.tensor([0.01, 0.5, 0.99]).repeat(8)[:, None]
    kept[:, vocab_size // 2] = True
    logits = (random(24, vocab_size, seed=1) * 3).to(dtype).masked_fill(~kept, -torch.inf)
    uniforms = torch.rand(24, generator=generator, dtype=torch.float64)
    uniforms[:6] = torch.tensor([0.0, 0.0, 0.0, 1 - 2**-53, 1 - 2**-53, 1 - 2**-53])
    return logits, uniforms


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_categorical_draws_what_the_reference_draws(dtype: torch.dtype, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    for vocab_size in (1, 1000, 1024, 1025, 5000):
        logits, uniforms = truncated(vocab_size, dtype)
        ids = categorical_cpu(logits, uniforms)
        assert torch.equal(ids, categorical_reference(logits, uniforms))
        assert logits.gather(1, ids[:, None]).isfinite().all()


def test_categorical_of_extreme_logits() -> None:
    logits = torch.full((3, 3000), -torch.inf)
    logits[0, 2997] = -1e30
    logits[1, 0] = 1e30
    logits[2, [5, 2000]] = torch.tensor([0.0, -300.0])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        uniforms = torch.full((3,), uniform, dtype=torch.float64)
        assert categorical_cpu(logits, uniforms).tolist() == [2997, 0, 5]


@pytest.mark.parametrize("begin", [0, 37])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_restrict(dtype: torch.dtype, begin: int) -> None:
    logits, restriction = restriction_case(100, dtype, begin)
    expected = logits.clone()
    TORCH.restrict(expected, restriction, begin)
    CPU.restrict(logits, restriction, begin)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0, equal_nan=True)
