"""What a lane holds of a job: as long as it runs, and until its last row is written."""

from __future__ import annotations

from scheduler_svc.core.events import Cancelled, Commit, Committed, Event
from scheduler_svc.lane.held_jobs import HeldJobs
from stepserve.protocol.job import ClaimedJob, CommitRow, Finish
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, FinishReason, StepCommand, TokenLogprobs
from tests.scheduler_svc.core.build import Lane, job, report


class World:
    """Jobs that a core and a lane both hold; every turn of the core is told."""

    def __init__(self, *jobs: ClaimedJob) -> None:
        self.held = HeldJobs()
        self.held.take(jobs)
        self.core = Lane(*jobs)

    def tell(self, *events: Event) -> None:
        effects = self.core.tell(*events)
        self.held.drop(events, effects, self.core.core)

    def end(self, step: int, sequence_id: int, *tokens: tuple[int, int, int]) -> None:
        """This sequence ended by itself in a step that chose these tokens."""
        blocks = tuple(self.core.core._roster.residents[sequence_id].block_ids)
        finished, freed = [(sequence_id, FinishReason.STOP)], [(sequence_id, blocks)]
        self.tell(report(step, *tokens, finished=finished, freed=freed))

    @property
    def rows(self) -> list[CommitRow]:
        return [row for commit in self.core.every(Commit) for row in commit.rows]

    @property
    def is_known(self) -> tuple[bool, bool]:
        """Whether the one job runs, and whether something of it is not written yet."""
        return "a" in self.held.running, "a" in self.held.unwritten_ids


def test_a_job_is_held_until_its_last_row_is_written() -> None:
    world = World(job("a", n=2))
    assert world.is_known == (True, True)
    world.end(1, 1, (1, 0, 9), (2, 0, 8))
    [finished] = [row.index for row in world.rows if row.finish is not None]
    assert world.is_known == (True, True), "its other output goes on"
    world.held.written([("a", finished)])
    assert world.is_known == (True, True)
    world.end(2, 2, (2, 1, 9))
    assert world.is_known == (False, True), "its end is on the way to Redis"
    assert world.held.ids == {"a"}
    assert world.held.spec_of("a") is not None
    world.held.written([("a", 1)])
    assert world.held.ids == frozenset()
    assert world.held.spec_of("a") is None


def test_what_was_cached_when_an_output_began_is_known_until_it_is_written() -> None:
    held = HeldJobs()
    held.take([job("a", n=2), job("begun", outputs={0: (7,)})])

    def sent(job_id: str, num_computed: int, num_outputs: int = 0, index: int = 0) -> None:
        ids = tuple(range(20 + num_outputs))
        admission = Admission(1, job_id, index, ids, 20, Sampling(5), num_computed)
        held.sent(StepCommand(1, "i", 1, admissions=(admission,)))

    sent("a", 16)
    sent("a", 0, index=1)
    assert held.cached == {("a", 0): 16, ("a", 1): 0}
    sent("a", 8)  # it was preempted before its first token: the cache holds what it left there
    sent("begun", 16, num_outputs=1)
    sent("gone", 16)
    assert held.cached == {("a", 0): 16, ("a", 1): 0}
    held.written([("a", 0), ("a", 1)])
    assert held.cached == {}


def test_one_that_a_client_ended_is_dropped_at_once() -> None:
    world = World(job("a", n=2), job("b"))
    world.tell(Cancelled(("a",)))
    assert world.held.ids == {"b"}
    assert world.held.spec_of("a") is None
    assert not world.held._leaving


def test_one_that_was_found_to_have_ended_runs_no_more() -> None:
    world = World(job("a"))
    world.tell(report(1, (1, 0, 8)))
    world.held.written([("a", 0)])
    assert world.is_known == (True, False), "the core does not know yet, and may name it"
    world.tell(Committed(1, (("a", 0),)))
    assert world.held.ids == frozenset()


def test_an_output_that_had_ended_before_the_claim_is_not_awaited() -> None:
    held = HeldJobs()
    held.take([job("a", n=2, outputs={0: (7, 8)}, ended=(0,))])
    held.written([("a", 1)])
    assert held.unwritten_ids == frozenset()


def test_it_knows_whether_anyone_may_be_late() -> None:
    world = World(job("a", deadline_s=100.0), job("b"))
    assert world.held.has_deadline
    world.tell(Cancelled(("a",)))
    assert not world.held.has_deadline


def test_what_a_log_lost_is_known_from_the_claim_on() -> None:
    held = HeldJobs()
    claimed = job("a", outputs={0: (7, 8)})
    held.take([claimed])
    rows = [CommitRow("a", 0, offset, (10 + offset,)) for offset in (2, 3)]
    for row in (*rows, rows[-1]):  # The last is tried again.
        held.remember([row])
    held.take([claimed])  # A queue that lost its last moments gives it once more.
    last = CommitRow("a", 0, 4, (), (), Finish("stop"))
    lost = held.lost_tail(last, 1)
    assert lost is not None
    assert list(lost.token_ids) == [8, 12, 13]
    assert lost.offset == 1
    assert held.lost_tail(CommitRow("a", 0, 5, (15,)), 1) is None, "a gap is not invented"
    assert held.lost_tail(CommitRow("other", 0, 0, ()), 0) is None


def test_log_probabilities_are_remembered_with_their_tokens() -> None:
    held = HeldJobs()
    held.take([job("a", logprobs=1)])
    entries = tuple(TokenLogprobs(-float(i), ((i, -float(i)),)) for i in range(3))
    held.remember([CommitRow("a", 0, 0, (5, 6), entries[:2])])
    held.remember([CommitRow("a", 0, 1, (6, 7), entries[1:])])  # One token of it is new.
    lost = held.lost_tail(CommitRow("a", 0, 2, (7,), entries[2:]), 1)
    assert lost is not None
    assert (tuple(lost.token_ids), lost.logprobs) == ((6, 7), entries[1:])


def test_a_job_has_output_also_where_that_has_ended_and_is_held_no_more() -> None:
    held = HeldJobs()
    fresh, ended = job("fresh", n=2), job("ended", outputs={0: (7, 8)}, ended=(0,), n=2)
    held.take([fresh, ended, job("begun", outputs={0: (7,)})])
    specs = {each: held.spec_of(each) for each in ("fresh", "ended", "begun")}
    found = {each: spec and held.has_output(spec) for each, spec in specs.items()}
    assert found == {"fresh": False, "ended": True, "begun": True}
