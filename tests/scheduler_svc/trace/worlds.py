"""Model worlds under many settings, each a pure function of its name: what goldens come from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from tests.scheduler_svc.core.build import core_config
from tests.scheduler_svc.core.world import World
from tests.scheduler_svc.trace.tape import KEY, Tape, TapedCore

NUM_JOBS = 24
NUM_MOVES = 300

# What is unlike ``SETTINGS``, by name. "tight" has too few blocks for all who run.
SETTINGS = {"num_blocks": 24, "max_context": 40}
WORLDS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "tight": {"num_blocks": 14, "max_batch_size": 8},
    "tight-depth-3": {"num_blocks": 14, "max_batch_size": 8, "max_steps_in_flight": 3},
    "chunks-depth-1": {"max_step_tokens": 5, "max_steps_in_flight": 1},
    "few-uncommitted": {"max_uncommitted_steps": 2},
    "blocks-of-1": {"num_blocks": 40, "block_size": 1},
    "no-prefixes": {"num_blocks": 14, "max_batch_size": 8, "prefix_caching": False},
    "no-preemption": {"num_blocks": 12, "enable_preemption": False},
    "urgent": {"num_blocks": 16, "preemption_margin": 1.0},
    "static": {"batching": "static"},
    "static-tight": {"batching": "static", "num_blocks": 14, "max_batch_size": 8},
    "target": {"max_step_tokens": 64, "target_step_us": 150},
    "stages-2": {"num_stages": 2, "max_steps_in_flight": 3},
    "stages-4-tight": {
        "num_stages": 4,
        "max_steps_in_flight": 5,
        "target_batch_size": 1,
        "num_blocks": 14,
        "max_batch_size": 8,
    },
}


def record(name: str) -> list[Tape]:
    """Live through the world of this name; return the trace of each core that it had."""
    chance = random.Random(name)
    tapes: list[Tape] = []
    with patch("tests.scheduler_svc.core.world.Core", lambda config: TapedCore(config, tapes, KEY)):
        world = World(core_config(**(SETTINGS | WORLDS[name])))
        specs = [_spec(chance, number) for number in range(NUM_JOBS)]
        for move in range(NUM_MOVES):
            if specs and move % 25 < 3:
                world.submit(specs.pop(), {0: chance.choice((0, 0, 0, 2))})
            if move == NUM_MOVES // 2:
                world.lose_worker(answer_claim=True)
            _move(world, chance)
        world.drain()
        world.finish(max_steps=10_000)
    return tapes


def _move(world: World, chance: random.Random) -> None:
    """Do one thing that could happen next; mostly what ought to."""
    luck = chance.random()
    if luck < 0.02 and world.queue.unended:
        world.cancel(chance.choice(world.queue.unended), is_told=luck < 0.01)
    elif luck < 0.04 and world.history:
        world.repeat_report(chance.randrange(100))
    elif luck < 0.06:
        world.tick(chance.choice((6.0, 6.9999, 8.0)))
    elif luck < 0.3 and world.commands:
        world.execute()
    elif luck < 0.5 and world.redis:
        world.write()
    elif luck < 0.6 and world.inbox:
        world.drain(chance.choice((None, 1, 2)))
    else:
        world.turn()


def _spec(chance: random.Random, number: int) -> JobSpec:
    shared = [1 + i % 15 for i in range(8)]
    return JobSpec(
        f"job{number}",
        "model",
        shared[: chance.choice((0, 4, 8))] + [chance.randint(1, 15) for _ in range(6)],
        Sampling(
            max_tokens=chance.choice((1, 16, 28)),
            seed=number,
            stop=("7", "11") if chance.random() < 0.3 else (),
            stop_token_ids=(0,) if chance.random() < 0.3 else (),
            n=chance.choice((1, 1, 1, 2, 3)),
        ),
        priority=chance.randint(-2, 2),
        tenant=chance.choice(("", "a")),
        arrival_s=float(chance.randint(0, 5)),
        deadline_s=chance.choice((0.0, 0.0, 0.0, 7.0)),
    )
