"""A job's spans in one lane, by OpenTelemetry's own exporter in memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from scheduler_svc.core.events import Adopted, Cancelled, Claimed, Committed, Effect, Event
from scheduler_svc.core.scheduler import Core
from scheduler_svc.metrics.turns import Turns
from scheduler_svc.spans.lane_spans import LaneSpans, spans_of_lane
from scheduler_svc.spans.tracing import Tracing
from stepserve.protocol.job import ClaimedJob, JobSpec
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason, ResidentSequence
from tests.scheduler_svc.core.build import core_config, job, report
from tests.scheduler_svc.core.world import World

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"


class Traced:
    """A lane's core whose turns are traced; Redis's clock is ours."""

    def __init__(self, **changes: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.core = Core(core_config(**changes))
        self.spans = LaneSpans(Tracing(provider), "w:1", Turns())
        self.tell()

    def tell(self, *events: Event) -> Traced:
        self.spans.observe(events, self.core.handle(events), self.core)
        return self

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.ended]


def traced_job(job_id: str, *, trace: str = SAMPLED, **more: Any) -> ClaimedJob:
    return job(job_id, trace=trace, **more)


def values(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_queued_prefill_decode_and_commit_one_after_another() -> None:
    lane = Traced()
    arrived_s = lane.spans._clock.redis_now_s - 5
    claimed = traced_job("a", arrival_s=arrived_s, max_tokens=2, tenant="acme")
    lane.tell(Claimed((claimed,))).tell(report(1, (1, 0, 5)))
    assert lane.names == ["queued", "prefill"]
    end = [(1, FinishReason.LENGTH)]
    lane.tell(report(2, (1, 1, 5), finished=end, freed=[(1, [0])]))
    assert lane.names == ["queued", "prefill", "decode"], "what is not in Redis is not over"
    lane.tell(Committed(1), Committed(2))
    assert lane.names == ["queued", "prefill", "decode", "commit"]
    for span in lane.ended:
        assert span.context is not None
        assert span.parent is not None
        assert f"{span.context.trace_id:032x}" == TRACE_ID
        assert f"{span.parent.span_id:016x}" == PARENT_ID
        told = values(span)
        assert (told["stepserve.job.id"], told["stepserve.tenant"]) == ("a", "acme")
        assert (told["stepserve.worker"], told["stepserve.output.index"]) == ("w:1", 0)
    times = [(span.start_time or 0, span.end_time or 0) for span in lane.ended]
    assert 4.9e9 < times[0][1] - times[0][0] < 65e9, "it was queued since it arrived"
    for (_, before), (begun, ended) in pairwise(times):
        assert before <= begun <= ended
    decode = values(lane.ended[2])
    assert decode["gen_ai.usage.output_tokens"] == 2
    assert decode["gen_ai.usage.input_tokens"] == 3
    assert decode["stepserve.preemptions"] == 0
    assert decode["gen_ai.response.finish_reasons"] == ("length",)


def test_each_output_has_its_own() -> None:
    lane = Traced().tell(Claimed((traced_job("a", n=2),))).tell(report(1, (1, 0, 5), (2, 0, 5)))
    lane.tell(Cancelled(("a",)))
    told = [(span.name, values(span)["stepserve.output.index"]) for span in lane.ended]
    assert sorted(told) == [
        (name, index) for name in ("decode", "prefill", "queued") for index in (0, 1)
    ]
    assert values(lane.ended[-1])["gen_ai.response.finish_reasons"] == ("cancelled",)


def test_each_preemption_is_counted_and_prefilled_again() -> None:
    """A whole run, with so few blocks that sequences are preempted."""
    lane, world = Traced(), World(core_config(num_blocks=8, max_batch_size=6, max_context=32))
    handle = world.core.handle

    def handled(events: Iterable[Event]) -> list[Effect]:
        told = tuple(events)
        effects = handle(told)
        lane.spans.observe(told, effects, world.core)
        return effects

    world.core.handle = handled  # type: ignore[method-assign, assignment]
    chance = random.Random(1)
    for number in range(12):
        prompt = tuple(chance.choices(range(1, 50), k=chance.randint(1, 12)))
        sampling = Sampling(max_tokens=chance.randint(2, 16), seed=number)
        world.submit(JobSpec(f"j{number}", "m", prompt, sampling, trace=SAMPLED), {})
    world.finish(max_steps=5000)
    num_preempted = sum(bool(values(span).get("stepserve.preempted")) for span in lane.ended)
    assert num_preempted == world.core.counts.num_preemptions > 0
    last = [span for span in lane.ended if "gen_ai.response.finish_reasons" in values(span)]
    assert len(last) == lane.names.count("commit") == 12
    assert sum(values(span)["stepserve.preemptions"] for span in last) == num_preempted
    assert lane.names.count("queued") == 12 + num_preempted, "and waits again, each time"
    # One may end by what was on its way when it was preempted.
    ended_waiting = sum(span.name == "queued" for span in last)
    assert lane.names.count("prefill") == 12 + num_preempted - ended_waiting


def test_what_goes_on_elsewhere_ends_here_and_begins_there_in_the_same_trace() -> None:
    first = Traced().tell(Claimed((traced_job("a"),))).tell(report(1, (1, 0, 5)))
    first.spans.leave()
    assert first.names == ["queued", "prefill", "decode"]
    assert values(first.ended[-1])["stepserve.left"] is True
    held = ResidentSequence(1, "a", 0, 4, 3, (0,))
    second = Traced(first_step=2)
    second.tell(Adopted((traced_job("a", outputs={0: (5,)}),), (held,), last_id=1))
    assert second.names == ["queued"]
    assert values(second.ended[0])["stepserve.adopted"] is True
    second.spans.leave()
    for span in (*first.ended, *second.ended):
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE_ID


def test_an_error_is_one_and_what_the_client_did_not_want_sampled_is_not() -> None:
    lane = Traced().tell(Claimed((traced_job("a"), traced_job("b", trace=SAMPLED[:-1] + "0"))))
    lane.tell(report(1, (1, 0, 5), (2, 0, 5)))
    error = [(1, FinishReason.ERROR)]
    lane.tell(report(2, (2, 1, 5), finished=error, freed=[(1, [0])]))
    [decode] = [span for span in lane.ended if span.name == "decode"]
    assert decode.status.status_code is StatusCode.ERROR
    assert {values(span)["stepserve.job.id"] for span in lane.ended} == {"a"}


@pytest.fixture
def nothing() -> Iterator[tuple[Any, ...]]:
    with spans_of_lane(None, "w:1", Turns()) as observers:
        yield observers


def test_nobody_observes_where_nothing_is_traced(nothing: tuple[Any, ...]) -> None:
    assert nothing == ()
