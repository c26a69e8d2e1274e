"""What graphs take of a device's memory is left free for them; where none can be made, none are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvstore.cache import CacheShape
from tests.checkpoints import lone_greedy
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import GREEDY, finish_all, lane_for, prompt
from tests.worker_svc.step.recorded import Recordings
from worker_svc import cache_size
from worker_svc.assembly import _capture
from worker_svc.core.limits import Limits
from worker_svc.errors import WorkerUnavailable
from worker_svc.model.part import Part
from worker_svc.settings import WorkerSettings
from worker_svc.step.graphs import BYTES_PER_GRAPH, GRAPHED_NEEDS, Bucket, buckets_for, graph_bytes
from worker_svc.step.layout import Flat

GIB = 2**30
TOTAL, FREE, STEP = 80 * GIB, 60 * GIB, 3 * GIB
HIDDEN_SIZE = 4096


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    recordings = Recordings()
    recordings.put_in(monkeypatch)
    return recordings


def test_what_is_counted_is_what_is_captured(assembled: Assemble, recordings: Recordings) -> None:
    """Each bucket once, with all that it keeps; the work once, of the largest."""
    runner = assembled(max_step_tokens=128).runner
    graphs = runner.executor.graphs
    assert graphs is not None
    captured = [graph.bucket for graph in graphs._graphs]
    assert len(captured) == len(set(captured))
    num_choosers = sum(bucket.is_decode for bucket in captured) * len(GRAPHED_NEEDS)
    assert len(captured) + num_choosers == recordings.num_made
    assert captured == list(buckets_for(runner._limits))
    kept = 0
    for graph in graphs._graphs:
        assert graph.hidden is not None
        assert graph.inputs._memory is not None
        kept += graph.hidden.nbytes + graph.inputs._memory.nbytes
        for choice in graph.choices.values():
            kept += choice.token_ids.nbytes + choice.is_finite.nbytes
    row_bytes = graph.hidden.shape[1] * graph.hidden.itemsize
    work = STEP * max(bucket.num_tokens for bucket in captured) // 128
    counted = graph_bytes(runner._limits, STEP, row_bytes, 1)
    assert counted == work + kept + len(captured) * BYTES_PER_GRAPH


def test_the_context_that_blocks_leave_needs_no_more_graphs_than_were_counted() -> None:
    """They are counted before it is known how many blocks there are."""
    for max_context in (100, 4096, 5000, 40960):
        before = buckets_for(Limits(100, max_context, 16, 1, 64, 2048))
        for left in (64, 4096, 4097, max_context):
            after = buckets_for(Limits(100, min(left, max_context), 16, 99, 64, 2048))
            assert len(after) <= len(before)


@pytest.mark.parametrize("max_batch_size", [1, 6, 256])
@pytest.mark.parametrize("max_step_tokens", [1, 64, 8192])
def test_the_work_that_is_counted_is_the_largest_graphs(
    max_batch_size: int, max_step_tokens: int
) -> None:
    limits = Limits(100, 5000, 16, 1, max_batch_size, max_step_tokens)
    largest: Bucket = max(buckets_for(limits), key=lambda bucket: bucket.num_tokens)
    least = graph_bytes(limits, 0, 0, 0)
    assert graph_bytes(limits, max_step_tokens, 0, 0) - least == largest.num_tokens
    assert largest.num_tokens <= max_step_tokens
    logits = graph_bytes(limits, max_step_tokens, 0, 10**6) - least
    assert logits == 10**6 * min(max_batch_size, max_step_tokens)


def num_blocks(patch: pytest.MonkeyPatch, **settings: Any) -> tuple[int, Limits, CacheShape]:
    """The blocks of an 8B model's cache on a GPU of these bytes, and the limits before."""
    patch.setattr(cache_size, "free_bytes", lambda _: FREE)
    patch.setattr(cache_size, "peak_bytes", lambda *_: STEP)
    card = SimpleNamespace(total_memory=TOTAL)
    patch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    limits, shape = Limits(100, 40960, 16, 1, 256, 8192), CacheShape(36, 8, 128, 16, torch.bfloat16)
    model: Any = SimpleNamespace(
        hidden_size=HIDDEN_SIZE,
        vocab_size=100,
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        part=Part(),
        cache_shape=lambda _: shape,
    )
    chosen = WorkerSettings(model="unused", **settings)
    return cache_size._num_blocks_free(chosen, model, Flat(), limits), limits, shape


def test_a_gpus_cache_leaves_room_for_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    found, limits, shape = num_blocks(monkeypatch)
    graphs = graph_bytes(limits, STEP, 2 * HIDDEN_SIZE, 2 * 100)
    assert graphs > len(buckets_for(limits)) * BYTES_PER_GRAPH
    left = cache_size.cache_bytes(TOTAL, FREE, STEP + graphs, 0.9)
    assert found == left // shape.bytes_per_block


@pytest.mark.parametrize(
    "settings",
    [
        {"cuda_graphs": False},
        {"attention": "grouped"},
        {"attention": "padded"},
        {"kernels": "torch"},
    ],
    ids=str,
)
def test_without_graphs_no_room_is_left_for_any(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    found, _, shape = num_blocks(monkeypatch, **settings)
    assert found == cache_size.cache_bytes(TOTAL, FREE, STEP, 0.9) // shape.bytes_per_block


def test_without_graphs_none_are_captured(assembled: Assemble, recordings: Recordings) -> None:
    assert assembled(cuda_graphs=False).runner.executor.graphs is None
    assert recordings.num_made == 0


@pytest.mark.parametrize("num_before", [0, 2])
def test_where_a_capture_fails_it_is_said_and_steps_are_launched_eagerly(
    assembled: Assemble,
    recordings: Recordings,
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_before: int,
) -> None:
    def record(self: Recordings, compute: Any) -> Any:
        compute()
        if self.num_made == num_before:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        self.num_made += 1
        return lambda: pytest.fail("a graph is replayed")

    monkeypatch.setattr(Recordings, "__call__", record)
    runner = assembled().runner
    assert recordings.num_made == num_before
    [said] = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert said == (
        "no CUDA graphs, every kernel is launched alone: "
        "operation not permitted when stream is capturing"
    )
    assert runner.executor.graphs is None
    lane = lane_for()
    job = lane.jobs[lane.admit(prompt(7), GREEDY)]
    finish_all(runner, lane)
    assert job.tokens == lone_greedy(small_checkpoint, prompt(7), 12, stop_token_ids=()).tokens


def test_where_ranks_wait_for_each_others_graphs_none_goes_on_without(
    assembled: Assemble, recordings: Recordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may be at what only a replay of all ranks computes: they would wait for ever."""
    executor = assembled(cuda_graphs=False).runner.executor
    executor.model.part = Part(num_ranks=2)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Recordings, "__call__", fail)
    with pytest.raises(WorkerUnavailable, match="out of memory: --no-cuda-graphs serves"):
        _capture(executor, Limits(257, 512, 4, 64, 6, 16))
    assert recordings.num_made == 0
