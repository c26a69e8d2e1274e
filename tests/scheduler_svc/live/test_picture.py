"""What the live page is told of a lane: right while somebody looks, nothing else at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from scheduler_svc.core.events import Cancelled, Claimed, Committed, Effect, Event
from scheduler_svc.core.scheduler import Core
from scheduler_svc.live import picture as picture_module
from scheduler_svc.live.picture import Picture
from stepserve.protocol.job import JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason
from tests.scheduler_svc.core.build import core_config, job, report
from tests.scheduler_svc.core.world import World


class Shown:
    """A lane whose turns are shown; nobody looks before ``look``."""

    def __init__(self, *, is_watched: bool = True, **changes: Any) -> None:
        self.is_watched = is_watched
        config = core_config(**changes)
        self.core = Core(config)
        self.picture = Picture("w:1", config, lambda: self.is_watched)
        self.tell()

    def tell(self, *events: Event) -> Shown:
        self.picture.observe(events, self.core.handle(events), self.core)
        return self

    def frame(self) -> dict[str, Any]:
        found = self.picture.frame()
        assert found is not None
        return found


def lives(frame: dict[str, Any]) -> list[list[Any]]:
    """What happened to whom, without when."""
    return [[what, *rest] for what, _, *rest in frame["lives"]]


def test_a_prompt_in_chunks_then_tokens_then_the_end() -> None:
    shown = Shown(max_step_tokens=4, max_batch_size=4)
    shown.tell(Claimed((job("a", prompt=(1, 2, 3, 4, 5, 6), max_tokens=2),)))
    shown.tell(report(1), report(2, (1, 0, 5)))
    frame = shown.frame()
    assert [(step["rows"], step["num_tokens"]) for step in frame["steps"]] == [
        ([[1, "p", 4]], 4),
        ([[1, "p", 2]], 2),
    ]
    assert frame["names"] == {1: ("a", 0)}
    assert lives(frame) == [["admitted", "a", 0, 0], ["first", "a", 0]]
    shown.tell(report(3, (1, 1, 5), finished=[(1, FinishReason.LENGTH)], freed=[(1, [0, 1])]))
    frame = shown.frame()
    assert [step["rows"] for step in frame["steps"]] == [[[1, "l", 1]]]
    assert lives(frame) == [["ended", "a", 0, "length", 2]]
    assert (frame["running"], frame["used"], frame["blocks"]) == (0, 0, 16)
    assert frame["names"] == {1: ("a", 0)}, "who has left has a name in the step that it left in"


def test_who_is_there_already_when_somebody_begins_to_look() -> None:
    shown = Shown(is_watched=False)
    shown.tell(Claimed((job("a", tenant="acme", max_tokens=9),))).tell(report(1, (1, 0, 5)))
    assert shown.picture.frame() is None
    shown.is_watched = True
    shown.tell(report(2, (1, 1, 5))).tell(report(3, (1, 2, 5))).tell(report(4, (1, 3, 5)))
    frame = shown.frame()
    assert frame["members"][0][:6] == ["a", 0, "acme", 0, 3, 4]
    assert {row[1] for step in frame["steps"] for row in step["rows"]} == {"d"}
    assert not lives(frame), "it began unseen"


def test_nothing_is_noted_while_nobody_looks() -> None:
    shown = Shown(is_watched=False)
    shown.tell(Claimed((job("a"),))).tell(report(1, (1, 0, 5)))
    shown.is_watched = True
    frame = shown.frame()
    assert (frame["steps"], frame["lives"], frame["names"]) == ([], [], {})
    assert frame["members"][0][:2] == ["a", 0]


def test_who_others_end_is_told_of() -> None:
    shown = Shown().tell(Claimed((job("a"), job("b"))))
    shown.tell(report(1, (1, 0, 5), (2, 0, 5)), Cancelled(("b",)))
    assert ["ended", "b", -1, "cancelled"] in lives(shown.frame())


def test_a_whole_run_is_shown_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few blocks that sequences are preempted, as often as the core counts."""
    monkeypatch.setattr(picture_module, "MAX_STEPS", 10_000)
    monkeypatch.setattr(picture_module, "MAX_LIVES", 10_000)
    config = core_config(num_blocks=8, max_batch_size=6, max_context=32)
    world, picture = World(config), Picture("w:1", config, lambda: True)
    handle = world.core.handle

    def handled(events: Iterable[Event]) -> list[Effect]:
        told = tuple(events)
        effects = handle(told)
        picture.observe(told, effects, world.core)
        return effects

    world.core.handle = handled  # type: ignore[method-assign, assignment]
    chance = random.Random(1)
    for number in range(12):
        prompt = tuple(chance.choices(range(1, 50), k=chance.randint(1, 12)))
        sampling = Sampling(max_tokens=chance.randint(2, 16), seed=number)
        world.submit(JobSpec(f"j{number}", "m", prompt, sampling), {})
    world.finish(max_steps=5000)
    frame = picture.frame()
    assert frame is not None
    doings = [doing for step in frame["steps"] for _, doing, _ in step["rows"]]
    happened = Counter(what for what, *_ in frame["lives"])
    assert happened["preempted"] == doings.count("x") == world.core.counts.num_preemptions > 0
    assert happened["ended"] == happened["first"] == 12
    assert doings.count("l") == 12
    shown = sum(num for step in frame["steps"] for _, doing, num in step["rows"] if doing != "x")
    # A row that a step names after its end, which was not known then, is not shown.
    assert 0 <= world.core.counts.num_computed_tokens - shown <= 12


def test_a_frame_has_bounds() -> None:
    shown = Shown(max_step_tokens=16)
    shown.tell(Claimed((job("a", prompt=(1,), max_tokens=60),)))
    for step in range(1, 41):
        shown.tell(report(step, (1, step - 1, 5)), Committed(step))
    frame = shown.frame()
    assert len(frame["steps"]) == picture_module.MAX_STEPS
    assert frame["skipped"] == 40 - picture_module.MAX_STEPS
    assert frame["steps"][-1]["n"] == 40, "the newest are seen"
