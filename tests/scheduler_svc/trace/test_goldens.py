"""The core still wants what it wanted when the golden traces were recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvstore.pool import BlockPool
from scheduler_svc.core import victim
from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Send
from scheduler_svc.core.scheduler import Core
from scheduler_svc.core.sequence import Sequence
from scheduler_svc.trace.file import open_trace
from scheduler_svc.trace.replay import Difference, replay
from tests.scheduler_svc.trace.record import goldens
from tests.scheduler_svc.trace.worlds import WORLDS

Mistake = Callable[[pytest.MonkeyPatch], None]
MAX_BYTES = 400_000
AGAIN = "meant: python -m tests.scheduler_svc.trace.record; else a mistake"


def difference(path: Path, make_core: Callable[[CoreConfig], Core] = Core) -> Difference | None:
    with open_trace(path) as trace:
        return replay(trace, make_core).difference


@pytest.mark.parametrize("path", goldens(), ids=lambda path: path.name.partition(".")[0])
def test_it_wants_the_same(path: Path) -> None:
    differs = difference(path)
    assert differs is None, f"{AGAIN}\n{differs}"


def last_gives_way(patch: pytest.MonkeyPatch) -> None:
    def chosen(running: Collection[Sequence]) -> Sequence:
        return max(running, key=lambda sequence: sequence.order)

    patch.setattr(victim, "for_blocks", chosen)


def nothing_is_cached(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "match", lambda *_: [])


def blocks_in_another_order(patch: pytest.MonkeyPatch) -> None:
    allocate = BlockPool.allocate
    patch.setattr(BlockPool, "allocate", lambda pool, count: allocate(pool, count)[::-1])


def every_preemption_is_an_error(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(victim, "for_blocks", lambda _: 1 // 0)


@pytest.mark.parametrize(
    "mistake",
    [
        last_gives_way,
        nothing_is_cached,
        blocks_in_another_order,
        every_preemption_is_an_error,
    ],
)
def test_a_mistake_is_noticed(mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    assert any(difference(path) for path in goldens())


@pytest.mark.parametrize("limit", ["max_batch_size", "max_step_tokens", "max_steps_in_flight"])
def test_other_limits_are_noticed(limit: str) -> None:
    def one_more(config: CoreConfig) -> Core:
        changes: dict[str, Any] = {limit: getattr(config, limit) + 1}
        return Core(replace(config, **changes))

    assert any(difference(path, one_more) for path in goldens())


def test_they_are_of_every_world_small_and_full_of_events() -> None:
    names = {path.name.removesuffix(".jsonl.gz") for path in goldens()}
    assert {f"{world}-{life}" for world in WORLDS for life in (1, 2)} | {
        "real-1",
        "real-2",
    } == names
    assert sum(path.stat().st_size for path in goldens()) < MAX_BYTES
    seen = {path: happenings(path) for path in goldens()}
    assert set().union(*seen.values()) == {
        "Claimed",
        "Reported",
        "Committed",
        "Cancelled",
        "WorkerLost",
        "Ticked",
        "Send",
        "Commit",
        "Claim",
        "Requeue",
        "prefix hit",
        "preemption",
        "deadline",
    }


def happenings(path: Path) -> set[str]:
    """Return what was told and wanted, and what became of sequences."""
    found: set[str] = set()
    admitted: set[tuple[str, int]] = set()
    with open_trace(path) as trace:
        for events, effects in trace.turns():
            found |= {type(each).__name__ for each in (*events, *effects)}
            for effect in effects:
                if isinstance(effect, Send):
                    for admission in effect.command.admissions:
                        key = admission.job_id, admission.index
                        found |= {"preemption"} if key in admitted else set()
                        found |= {"prefix hit"} if admission.num_computed else set()
                        admitted.add(key)
                if '"deadline"' in repr(effect).replace("'", '"'):
                    found.add("deadline")
    return found
