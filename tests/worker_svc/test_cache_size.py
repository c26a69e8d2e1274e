"""How much memory a cache takes, and what does not fit beside it."""

from __future__ import annotations

import pytest

from tests.worker_svc.conftest import Assemble
from worker_svc.cache_size import cache_bytes
from worker_svc.errors import WorkerUnavailable

GIB = 2**30
BYTES_PER_BLOCK = 3 * 2 * 2 * 16 * 4 * 8  # of the small checkpoint in float64, blocks of 4


def test_a_cpu_cache_is_a_share_of_the_available_memory(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 100 * BYTES_PER_BLOCK)
    assert assembled(num_blocks=None).info.num_blocks == 30
    assert assembled(num_blocks=None, memory_fraction=0.1).info.num_blocks == 10
    with pytest.raises(WorkerUnavailable, match="no memory is left"):
        assembled(num_blocks=None, memory_fraction=0.001)


def test_blocks_that_do_not_fit_are_refused(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerUnavailable, match="--num-blocks 1000000000000: a KV cache"):
        assembled(num_blocks=10**12)
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 100 * BYTES_PER_BLOCK)
    assert assembled(num_blocks=100).info.num_blocks == 100
    with pytest.raises(WorkerUnavailable, match="GiB are free on cpu"):
        assembled(num_blocks=101)


def test_one_slot_is_too_few(assembled: Assemble) -> None:
    with pytest.raises(WorkerUnavailable, match="--num-blocks 1 of --block-size 1: a sequence"):
        assembled(num_blocks=1, block_size=1)
    assert assembled(num_blocks=2, block_size=1).info.max_context == 2


def test_a_gpus_cache_leaves_room_for_a_step_and_a_share_for_nobody() -> None:
    assert cache_bytes(80 * GIB, 60 * GIB, 3 * GIB, 0.75) == 37 * GIB
    assert cache_bytes(80 * GIB, 60 * GIB, 3 * GIB, 1.0) == 57 * GIB
    assert cache_bytes(80 * GIB, 9 * GIB, 3 * GIB, 0.75) == 0


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_a_rectangle_that_does_not_fit_beside_the_cache_is_refused(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch, batching: str
) -> None:
    padded = {"attention": "padded", "batching": batching, "max_context": 100}
    assert assembled(**padded).info.max_batch_size == 6
    monkeypatch.setattr("worker_svc.cache_size.free_bytes", lambda _: 64 * BYTES_PER_BLOCK + 10**6)
    with pytest.raises(WorkerUnavailable) as caught:
        assembled(**padded)
    problem, advice = str(caught.value).split("KV cache: ")
    assert problem.startswith("--attention padded: the largest step takes 0.0 GiB")
    assert advice == "lower --max-batch-size, --max-step-tokens or --max-context"
    assert assembled(**padded, max_batch_size=1, max_step_tokens=8).info.max_batch_size == 1
    assert assembled(attention="grouped").info.max_batch_size == 6
