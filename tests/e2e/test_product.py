"""Invariant 1 over the product of settings: whatever they are, each job's output is its lone run's.

Every example is recorded as well, and replayed through a new core.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.scheduler import Core
from scheduler_svc.trace.file import open_trace
from scheduler_svc.trace.replay import replay
from stepserve import AsyncClient
from tests.checkpoints import VARIANTS, add_tokenizer, make_checkpoint
from tests.e2e.oracle import collect_each, compare, mixed_jobs
from tests.e2e.stack import stack

NUM_JOBS = 8
# Of the longest job: 40 + 24 tokens of prompt, 36 of output.
MAX_LENGTH = 100
# Full attention, windows in all or in some layers, few and many key-value heads.
VARIANTS_HERE = ("llama", "llama3-rope", "mistral-window", "qwen2-window", "qwen3-layer-types")
SETTINGS = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # A smaller example of a fault is not worth the hundreds of services that it takes.
    phases=(Phase.explicit, Phase.generate),
)


@dataclass(frozen=True, slots=True)
class Example:
    """One point of the product."""

    variant: str
    dtype: str
    seed: int
    scheduler: dict[str, Any]
    worker: dict[str, Any]


@st.composite
def examples(draw: st.DrawFn) -> Example:
    batching = draw(st.sampled_from(("continuous", "continuous", "static")))
    block_size = draw(st.sampled_from((4, 8, 16)))
    fewest = -(-MAX_LENGTH // block_size)
    return Example(
        variant=draw(st.sampled_from(VARIANTS_HERE)),
        dtype=draw(st.sampled_from(("float32", "float32", "float32", "float64"))),
        seed=draw(st.integers(0, 10_000)),
        scheduler={
            "batching": batching,
            "policy": draw(st.sampled_from(("fcfs", "priority", "fair"))),
            "tenant_weights": draw(st.sampled_from(("", "a=3,b=0.5"))),
            "enable_preemption": draw(st.sampled_from((True, True, False))),
            "preemption_margin_s": draw(st.sampled_from((0.0, 1.0))),
            "prefix_caching": draw(st.booleans()),
            "max_batch_size": draw(st.sampled_from((2, 5, 16, 16))),
            "max_step_tokens": draw(st.sampled_from((7, 24, 2048))),
            "target_step_ms": draw(st.sampled_from((0.0, 0.0, 3.0))),
            "max_steps_in_flight": draw(st.sampled_from((1, 2, 3))),
        },
        worker={
            "attention": draw(st.sampled_from(("paged", "grouped", "padded"))),
            "batching": batching,
            "block_size": block_size,
            # As few as one long job needs, up to room for all.
            "num_blocks": draw(st.sampled_from((fewest, fewest + 4, 2 * fewest, 8 * fewest))),
            "max_context": MAX_LENGTH,
        },
    )


class Checkpoints:
    """One of each variant and type, made when it is asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, variant: str) -> Path:
        path = self._root / variant
        if not path.exists():
            make_checkpoint(path, variant, seed=len(variant))
            add_tokenizer(path, VARIANTS[variant]().vocab_size)
        return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("product"))


async def check(example: Example, checkpoint: Path, redis_url: str) -> Counter[str]:
    """Run the example's jobs and compare each output; return what happened how often."""
    asked = mixed_jobs(example.seed, VARIANTS[example.variant]().vocab_size, NUM_JOBS)
    with TemporaryDirectory() as traces:
        async with (
            stack(
                checkpoint,
                redis_url,
                worker_settings={**example.worker, "dtype": example.dtype},
                record_events_dir=traces,
                **example.scheduler,
            ) as service,
            AsyncClient(service.target) as client,
        ):
            following = []
            for place, job in enumerate(asked):
                job_id = await client.submit(job.request())
                following.append(asyncio.create_task(collect_each(client, job_id, job.n)))
                if place == NUM_JOBS // 2:
                    await _some_output(client)  # the others find a batch under way
            outputs = await asyncio.gather(*following)
        seen = replayed(Path(traces))
    for job, each in zip(asked, outputs, strict=True):
        lone = job.alone(checkpoint, example.dtype)
        seen["num_excused"] += sum(compare(output, lone, job, example.dtype) for output in each)
    seen["num_outputs"] = sum(job.n for job in asked)
    return seen


async def _some_output(client: AsyncClient) -> None:
    while not any(o.num_tokens for job in await client.list() for o in job.outputs):
        await asyncio.sleep(0.005)


def replayed(directory: Path) -> Counter[str]:
    """Replay every trace; return what the cores counted, and the turns."""
    seen: Counter[str] = Counter()
    cores: list[Core] = []

    def make_core(config: CoreConfig) -> Core:
        cores.append(Core(config))
        return cores[-1]

    for path in directory.iterdir():
        with open_trace(path) as trace:
            done = replay(trace, make_core)
        assert done.difference is None, str(done.difference)
        seen["num_turns"] += done.num_turns
    for core in cores:
        seen.update(asdict(core.counts))
    return seen


def run(checkpoints: Checkpoints, redis_url: str, **changes: Any) -> Counter[str]:
    seen: Counter[str] = Counter()

    @settings(SETTINGS, **changes)
    @given(examples())
    def each(example: Example) -> None:
        checkpoint = checkpoints.get(example.variant)
        seen.update(asyncio.run(check(example, checkpoint, redis_url)))

    each()
    print(dict(seen))
    return seen


def test_any_settings_give_the_lone_outputs(checkpoints: Checkpoints, redis_url: str) -> None:
    seen = run(checkpoints, redis_url, max_examples=22, derandomize=True)
    assert seen["num_preemptions"] > 0
    assert seen["num_recomputed_tokens"] > 0
    assert seen["num_cached_tokens"] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_more_settings_give_the_lone_outputs(checkpoints: Checkpoints, redis_url: str) -> None:
    run(checkpoints, redis_url, max_examples=400)
