"""Invariant 1 over the product of settings: whatever they are, each job's output is its lone run's.

Every example is recorded as well, and replayed through a new core.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
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
from tests.e2e.oracle import OracleJob, collect_each, compare, mixed_jobs
from tests.e2e.stack import stack

NUM_JOBS = 8
# Of the longest job: 40 + 24 tokens of prompt, 36 of output.
MAX_LENGTH = 100
# Full attention, windows in all or in some layers, few and many key-value heads.
VARIANTS_HERE = ("llama", "llama3-rope", "mistral-window", "qwen2-window", "qwen3-layer-types")
BATCHING, ATTENTION = ("continuous", "static"), ("paged", "grouped", "padded")
POLICIES = ("fcfs", "priority", "fair")
# Of the outputs, so many may differ from the lone run's where that one nearly chose otherwise.
MAX_EXCUSED_SHARE = 0.05
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

    batching: str
    attention: str
    policy: str
    variant: str
    dtype: str
    seed: int
    scheduler: dict[str, Any]
    worker: dict[str, Any]

    def jobs(self) -> list[OracleJob]:
        return mixed_jobs(self.seed, VARIANTS[self.variant]().vocab_size, NUM_JOBS)

    def scheduler_settings(self) -> dict[str, Any]:
        return {"batching": self.batching, "policy": self.policy, **self.scheduler}

    def worker_settings(self) -> dict[str, Any]:
        own = {"batching": self.batching, "attention": self.attention, "dtype": self.dtype}
        return {**own, "max_context": MAX_LENGTH, **self.worker}


@st.composite
def examples(draw: st.DrawFn) -> Example:
    block_size = draw(st.sampled_from((4, 8, 16)))
    fewest = -(-MAX_LENGTH // block_size)
    return Example(
        batching=draw(st.sampled_from(BATCHING)),
        attention=draw(st.sampled_from(ATTENTION)),
        policy=draw(st.sampled_from(POLICIES)),
        variant=draw(st.sampled_from(VARIANTS_HERE)),
        dtype=draw(st.sampled_from(("float32", "float32", "float32", "float64"))),
        seed=draw(st.integers(0, 10_000)),
        scheduler={
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
            "block_size": block_size,
            # As few as one long job needs, up to room for all.
            "num_blocks": draw(st.sampled_from((fewest, fewest + 4, 2 * fewest, 8 * fewest))),
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


async def check(
    example: Example, asked: Sequence[OracleJob], checkpoint: Path, redis_url: str
) -> Counter[str]:
    """Run the jobs and compare each output; return what happened how often."""
    with TemporaryDirectory() as traces:
        async with (
            stack(
                checkpoint,
                redis_url,
                worker_settings=example.worker_settings(),
                record_events_dir=traces,
                **example.scheduler_settings(),
            ) as service,
            AsyncClient(service.target) as client,
        ):
            following = []
            for index, job in enumerate(asked):
                job_id = await client.submit(job.request())
                following.append(asyncio.create_task(collect_each(client, job_id, job.n)))
                if index == len(asked) // 2:
                    await _some_output(client)  # the others find a batch under way
            outputs = await asyncio.gather(*following)
        seen = replayed(Path(traces))
    for job, each in zip(asked, outputs, strict=True):
        seen["num_excused"] += sum(compare(one, checkpoint, job, example.dtype) for one in each)
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


def drawn(count: int) -> list[Example]:
    """Return the same examples every time."""
    found: list[Example] = []

    @settings(SETTINGS, max_examples=count, derandomize=True)
    @given(examples())
    def note(example: Example) -> None:
        found.append(example)

    note()
    return found


def assert_few_are_excused(seen: Counter[str]) -> None:
    assert seen["num_excused"] <= MAX_EXCUSED_SHARE * seen["num_outputs"], dict(seen)


def test_any_settings_give_the_lone_outputs(checkpoints: Checkpoints, redis_url: str) -> None:
    # Any two of the three values come together in one of these.
    triples = [
        (BATCHING[(i + j) % 2], attention, policy)
        for (i, attention), (j, policy) in product(enumerate(ATTENTION), enumerate(POLICIES))
    ]
    seen: Counter[str] = Counter()
    # The first that is drawn is always the simplest, which says little.
    for triple, rest in zip(triples, drawn(len(triples) + 1)[1:], strict=True):
        example = replace(
            rest, **dict(zip(("batching", "attention", "policy"), triple, strict=True))
        )
        checkpoint = checkpoints.get(example.variant)
        try:
            seen += asyncio.run(check(example, example.jobs(), checkpoint, redis_url))
        except BaseException as error:
            error.add_note(str(example))
            raise
    assert seen["num_preemptions"] > 0
    assert seen["num_recomputed_tokens"] > 0
    assert seen["num_cached_tokens"] > 0
    assert_few_are_excused(seen)


@pytest.mark.parametrize(
    "attention", ["paged", *(pytest.param(name, marks=pytest.mark.long) for name in ATTENTION[1:])]
)
def test_who_made_room_for_urgent_jobs_gives_the_lone_outputs(
    attention: str, checkpoints: Checkpoints, redis_url: str
) -> None:
    example = Example(
        batching="continuous",
        attention=attention,
        policy="priority",
        variant="llama",
        dtype="float32",
        seed=1,
        # Two places, each job more urgent than all before it, and blocks for everybody.
        scheduler={"preemption_margin_s": 0.0, "max_batch_size": 2},
        worker={"block_size": 8, "num_blocks": 2 * NUM_JOBS * MAX_LENGTH // 8},
    )
    jobs = [
        replace(job, max_tokens=36, ignore_eos=True, priority=index, n=1)
        for index, job in enumerate(example.jobs())
    ]
    seen = asyncio.run(check(example, jobs, checkpoints.get("llama"), redis_url))
    assert seen["num_preemptions"] > 0
    assert_few_are_excused(seen)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_more_settings_give_the_lone_outputs(checkpoints: Checkpoints, redis_url: str) -> None:
    seen: Counter[str] = Counter()

    @settings(SETTINGS, max_examples=400)
    @given(examples())
    def each(example: Example) -> None:
        checkpoint = checkpoints.get(example.variant)
        seen.update(asyncio.run(check(example, example.jobs(), checkpoint, redis_url)))

    each()
    assert_few_are_excused(seen)
