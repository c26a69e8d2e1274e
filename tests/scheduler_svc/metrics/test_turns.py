"""What lanes' turns are counted as: latencies by the test's clock, totals against outputs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from scheduler_svc.core.events import Cancelled, Claimed, Commit, Committed, Event, WorkerLost
from scheduler_svc.core.scheduler import Core
from scheduler_svc.metrics.latencies import Latencies
from scheduler_svc.metrics.outputs import Outputs
from scheduler_svc.metrics.turns import LaneMeter, Turns
from stepserve.metrics.family import Family
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.job import CommitRow, Finish, JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, FinishReason, ResidentSequence
from tests.scheduler_svc.core.build import core_config, job, report
from tests.scheduler_svc.core.world import World

_IDS = ((1, "a"), (2, "b"))


class Driven:
    """A lane's core whose turns are metered, at times that the test says."""

    def __init__(self, **changes: Any) -> None:
        self.now_s = 0.0
        self.turns = Turns(lambda: self.now_s)
        self.turns.redis_epoch_s = 1000.0  # Redis's clock, when ours says 0.
        self.latencies = self.turns.latencies
        config = core_config(**changes)
        self.core = Core(config)
        self.core.handle([])
        self._lane = self.turns.lane(config)
        self.meter = self._lane.__enter__()

    def at(self, now_s: float, *events: Event) -> Driven:
        self.now_s = now_s
        self.meter.observe(events, self.core.handle(events), self.core)
        return self

    def leave(self) -> None:
        self._lane.__exit__(None, None, None)


def told(histogram: Histogram) -> tuple[int, float]:
    return sum(histogram.counts), pytest.approx(histogram.total)


def value(turns: Turns, name: str) -> Any:
    [family] = [each for each in turns.families() if each.name == name]
    return _only(family)


def _only(family: Family) -> Any:
    [found] = family.values.values()
    return found


def test_an_output_waits_begins_goes_on_and_ends() -> None:
    lane = Driven().at(2.0, Claimed((job("a", arrival_s=1000.5, max_tokens=3),)))
    lane.at(2.5, report(1, (1, 0, 5)))
    lane.at(2.75, report(2, (1, 1, 5)))
    end = [(1, FinishReason.LENGTH)]
    lane.at(3.5, report(3, (1, 2, 5), finished=end, freed=[(1, [0, 1])]))
    latencies = lane.latencies
    assert told(latencies.queue_s) == (1, 1.5)
    assert told(latencies.prefill_s) == (1, 0.5)
    assert told(latencies.first_token_s) == (1, 2.0)
    assert told(latencies.between_tokens_s) == (2, 1.0)
    assert told(latencies.decode_s) == (1, 1.0)
    assert told(latencies.whole_s) == (1, 3.0)
    assert told(latencies.output_tokens) == (1, 3)
    assert told(latencies.prompt_tokens) == (1, 3)
    assert (latencies.num_prompt_tokens, latencies.num_output_tokens) == (3, 3)
    assert latencies.num_ended == {"length": 1}


def test_nobody_has_waited_less_than_nothing() -> None:
    lane = Driven().at(2.0, Claimed((job("a", arrival_s=9999.0),))).at(3.0, report(1, (1, 0, 5)))
    assert told(lane.latencies.queue_s) == (1, 0.0)
    assert told(lane.latencies.first_token_s) == (1, 1.0)


def test_who_pauses_and_who_comes_are_told_from_who_goes_on() -> None:
    latencies = Latencies()
    outputs = Outputs(latencies)
    outputs.claimed([job("a"), job("b")], 0.0, 0.25)
    outputs.admitted(
        [Admission(i, job_id, 0, (1,), 1, Sampling(max_tokens=9)) for i, job_id in _IDS], 0.5
    )
    for now_s, sequence_ids in ((1.0, (1,)), (2.0, (1, 2)), (3.0, ()), (4.0, (2,)), (7.0, (2, 1))):
        outputs.streamed(sequence_ids, now_s)
    outputs.streamed((2, 1), 7.25)
    assert told(latencies.first_token_s) == (2, 3.0)
    # a: 1, 5 and 0.25; b: 2, 3 and 0.25.
    assert told(latencies.between_tokens_s) == (6, 11.5)


def test_of_what_began_elsewhere_nothing_is_said_of_its_beginning() -> None:
    lane = Driven().at(5.0, Claimed((job("a", outputs={0: (7, 8)}, arrival_s=1000.0),)))
    lane.at(6.0, report(1, (1, 2, 5))).at(6.5, report(2, (1, 3, 5)))
    latencies = lane.latencies
    for histogram in (latencies.queue_s, latencies.first_token_s, latencies.prefill_s):
        assert told(histogram) == (0, 0.0)
    assert told(latencies.between_tokens_s) == (1, 0.5)
    assert latencies.num_prompt_tokens == 0


def test_a_report_that_comes_again_counts_once() -> None:
    lane = Driven().at(0.0, Claimed((job("a", arrival_s=1000.0),)))
    again = report(1, (1, 0, 5))
    lane.at(1.0, again, again).at(2.0, again)
    assert lane.latencies.num_output_tokens == 1
    assert told(lane.turns.step_s)[0] == 1


def test_who_others_ended_is_cancelled_once() -> None:
    jobs = [job("a", n=2), job("b"), job("c")]
    lane = Driven().at(0.0, Claimed(tuple(jobs)))
    lane.at(1.0, Cancelled(("a",))).at(1.5, report(1, (3, 0, 5), (4, 0, 5)))
    lane.at(2.0, Committed(1, (("b", 0),)), Cancelled(("b", "unknown")))
    assert lane.latencies.num_ended == {"cancelled": 3}


def test_totals_outlive_their_lanes_and_gauges_do_not() -> None:
    lane = Driven().at(0.0, Claimed((job("a"), job("b"))))
    lane.at(1.0, report(1, (1, 0, 5), (2, 0, 5)))
    turns = lane.turns
    assert value(turns, "num_requests_running") == 2
    assert value(turns, "kv_blocks") == 16
    assert value(turns, "kv_blocks_used") == 4, "those that steps in flight will fill, too"
    assert value(turns, "kv_cache_usage_perc") == 4 / 16
    assert value(turns, "computed_tokens") == 6
    assert value(turns, "prefix_cache_queries") == 6
    lane.at(2.0, WorkerLost()).leave()
    assert value(turns, "computed_tokens") == 6
    assert value(turns, "lanes") == value(turns, "kv_blocks") == 0
    assert value(turns, "num_requests_running") == value(turns, "kv_cache_usage_perc") == 0


def test_a_takeover_is_counted_with_what_was_adopted() -> None:
    turns = Turns()
    turns.took_over(3)
    turns.took_over(0)
    assert (value(turns, "takeovers"), value(turns, "adopted_sequences")) == (2, 3)


def test_what_was_adopted_goes_on_and_ends_and_is_not_said_to_begin() -> None:
    lane = Driven(first_step=8)
    lane.now_s = 5.0
    kept = [ResidentSequence(3, "a", 0, 4, 3, ())]
    lane.meter.adopted([job("a", arrival_s=1000.0)], kept, num_reports=1)
    end = [(3, FinishReason.LENGTH)]
    reports = (report(7, (3, 0, 5)), report(8, (3, 1, 5), finished=end))
    rows = (CommitRow("a", 0, 1, (5,), finish=Finish("length")),)
    for now_s, event, effects in ((6.0, reports[0], ()), (6.5, reports[1], [Commit(8, rows)])):
        lane.now_s = now_s
        lane.meter.observe([event], effects, lane.core)
    latencies = lane.latencies
    assert told(latencies.first_token_s) == told(latencies.prefill_s) == (0, 0.0)
    assert told(latencies.between_tokens_s) == (1, 0.5)
    assert told(latencies.whole_s) == (1, 6.5)
    assert latencies.num_ended == {"length": 1}
    assert (value(lane.turns, "takeovers"), value(lane.turns, "adopted_sequences")) == (1, 1)


class _Metered:
    """A world's cores, metered."""

    def __init__(self, world: World, meter: LaneMeter) -> None:
        self.num_tokens = self.num_outputs = self.num_empty = 0
        core = world.core
        handle = core.handle

        def handled(events: Sequence[Event]) -> Any:
            effects = handle(events)
            rows = [row for e in effects if isinstance(e, Commit) for row in e.rows]
            self.num_tokens += sum(len(row.token_ids) for row in rows)
            ends = [row.offset + len(row.token_ids) for row in rows if row.finish is not None]
            self.num_outputs += len(ends)
            self.num_empty += ends.count(0)
            meter.observe(events, effects, core)
            return effects

        core.handle = handled  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("seed", range(5))
def test_every_token_is_somebodys_first_or_has_one_before_it(seed: int) -> None:
    """With so few blocks that sequences are preempted all the time."""
    chance = random.Random(seed)
    config = core_config(num_blocks=8, max_batch_size=6, max_context=32)
    world, turns = World(config), Turns()
    with turns.lane(config) as meter:
        metered = _Metered(world, meter)
        for number in range(20):
            prompt = tuple(chance.choices(range(1, 50), k=chance.randint(1, 12)))
            sampling = Sampling(
                max_tokens=chance.randint(1, 16), seed=number, n=chance.randint(1, 2)
            )
            world.submit(JobSpec(f"j{number}", "m", prompt, sampling), {})
        world.finish(max_steps=5000)
        latencies = turns.latencies
        assert len(meter._outputs) == 0, "outputs are remembered that have ended"
    assert turns.counts().num_preemptions > 0
    num_first, _ = told(latencies.first_token_s)
    num_between, _ = told(latencies.between_tokens_s)
    assert num_first + num_between == metered.num_tokens
    assert num_first == metered.num_outputs - metered.num_empty
    assert latencies.num_ended.total() == metered.num_outputs
    assert latencies.output_tokens.total == metered.num_tokens
