from __future__ import annotations

from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.policy import FirstComeFirstServed
from scheduler_svc.core.sequence import Sequence
from tests.core.build import job


def sequences() -> list[Sequence]:
    jobs = [job("b", arrival_s=2.0, n=2), job("a", arrival_s=2.0), job("c", arrival_s=1.0)]
    return [sequence for claimed in jobs for sequence in sequences_of(claimed, 64)]


def test_who_came_first_is_next_then_by_id_and_index() -> None:
    waiting, order = sequences(), []
    while waiting:
        order.append(FirstComeFirstServed().next(waiting))
        waiting.remove(order[-1])
    assert [s.key for s in order] == [("c", 0), ("a", 0), ("b", 0), ("b", 1)]


def test_who_came_last_gives_way() -> None:
    assert FirstComeFirstServed().victim(sequences()).key == ("b", 1)
