"""An experiment on pipelines: what stages are worth, and where they wait for each other."""

from __future__ import annotations

from typing import Any

from stepserve_bench.report.targets import Target
from stepserve_bench.simulator.collected import Collected
from stepserve_bench.simulator.scenarios.ground import Ground, Verdict
from stepserve_bench.workloads.arrivals import ClosedLoop
from stepserve_bench.workloads.lengths import FixedLengths, JobLengths

NUM_STAGES = (1, 2, 4, 8)
# What a target is stated for.
STATED = 4
ROWS = 32
_PAGED = {"attention": "paged"}


def pipeline(ground: Ground) -> Verdict:
    """Stages of one GPU each, with as many places and blocks for each more of them.

    As many clients as places, so that the pipeline is as full as it can be; then where it
    breaks down: few clients, and prompts that are much longer than what is decoded beside them.
    """
    found = {num: _run(ground, num, batching="continuous") for num in NUM_STAGES}
    static = {num: _run(ground, num, batching="static") for num in NUM_STAGES}
    one = _run(ground, STATED, batching="continuous", target_batch_size=STATED * ROWS)
    few = _run(ground, STATED, clients=STATED // 2, batching="continuous", target_batch_size=1)
    alone = _run(ground, STATED, clients=1, batching="continuous")
    prompt = ground.system.max_context // 2
    long_prompts = _run(
        ground, STATED, lengths=FixedLengths(prompt, 64), num_jobs=256, batching="continuous"
    )
    rate = _rate(found[STATED])
    return Verdict(
        name="pipeline",
        targets=(
            Target(
                claim=f"share of {STATED} stages' time in which they wait, continuous",
                value=_bubbles(found[STATED]),
                bound=0.05,
                is_ceiling=True,
                limit="layers are whole, and a prompt's chunk is longer than a decode",
            ),
            Target(
                claim=f"requests/s of {STATED} stages, continuous over static",
                value=rate / _rate(static[STATED]),
                bound=1.5,
                limit="a static batch's long outputs are few",
            ),
        ),
        details={
            f"{title}_{name}": value
            for title, run in (
                *((f"continuous_{num}", run) for num, run in found.items()),
                *((f"static_{num}", run) for num, run in static.items()),
                ("one_batch_in_flight", one),
                ("few_clients", few),
                ("one_client", alone),
                ("long_prompts", long_prompts),
            )
            for name, value in _of(run).items()
        },
        notes=(
            f"each stage is a GPU with {ROWS} places of its own; {STATED} stages have "
            f"{rate / _rate(found[1]):.2f} times the requests/s of one",
            f"where it breaks down: {STATED} stages wait {_bubbles(one):.0%} of their time with "
            f"one batch in flight, {_bubbles(few):.0%} with {STATED // 2} clients, "
            f"{_bubbles(alone):.0%} with one, {_bubbles(long_prompts):.0%} with prompts of "
            f"{prompt} tokens",
        ),
    )


def _run(
    ground: Ground,
    num_stages: int,
    clients: int = 0,
    lengths: JobLengths | None = None,
    num_jobs: int = 0,
    **changes: Any,
) -> Collected:
    """Keep the places, or so many clients, busy."""
    num_places = ROWS * num_stages
    clients = clients or num_places
    jobs = num_jobs or max(200, ground.num_jobs * clients // (ROWS * max(NUM_STAGES)))
    stream = ground.stream(
        arrivals=ClosedLoop(clients), lengths=lengths or ground.lengths, num_jobs=jobs
    )
    return ground.run(
        stream,
        num_stages=num_stages,
        max_batch_size=num_places,
        num_blocks=ground.system.num_blocks * num_stages,
        **(_PAGED | changes),
    )


def _rate(run: Collected) -> float:
    return run.steady_requests_per_s


def _bubbles(run: Collected) -> float:
    return run.figures()["bubble_share"]


def _of(run: Collected) -> dict[str, float]:
    figures = run.figures()
    names = ("steady_requests_per_s", "bubble_share", "ttft_ms_p50", "itl_ms_p50")
    return {name: figures[name] for name in names}
