"""A stall is the longest time without a token that belongs to a fault."""

from __future__ import annotations

import pytest

from stepserve import SamplingParams
from stepserve_bench.chaos.jobs import ChaosJob
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.member import Member
from stepserve_bench.chaos.run import concerned
from stepserve_bench.chaos.stalls import Struck, by_kind, gaps, stall_s
from stepserve_bench.chaos.strikes import Victims


@pytest.mark.parametrize(
    ("times_s", "at_s", "until_s", "expected"),
    [
        ([1, 2, 3, 7, 8], 3.5, 20, 4.0),
        ([1, 2, 3, 4, 9, 10], 3.5, 20, 5.0),  # what was on its way came before it stood still
        ([1, 2, 3, 4, 9, 10], 3.5, 3.9, 1.0),  # the next fault has the rest
        ([5, 6], 3.5, 20, None),  # it had not begun
        ([1, 2, 3], 3.5, 20, None),  # it was over
    ],
)
def test_a_stall(times_s: list[float], at_s: float, until_s: float, expected: float | None) -> None:
    assert stall_s(times_s, at_s, until_s) == expected


def test_only_those_that_a_fault_concerned_count() -> None:
    ledger = Ledger()
    for job_id, times_s in {"a": [1.0, 2.0, 6.0], "b": [1.0, 2.0, 2.1]}.items():
        entry = ledger.accept(job_id, ChaosJob(0, (1,), SamplingParams(), ""))
        entry.outputs[0].times_s = times_s
    faults = [Struck("worker-kill", 3.0, "w", frozenset("a"), 4.0)]
    found = by_kind(ledger, faults)["worker-kill"]
    assert (found["faults"], found["streams"], found["max_s"]) == (1, 1, 4.0)
    assert list(gaps(ledger)) == [(1.0, 1.0), (2.0, 4.0), (1.0, 1.0)]
    nobody = by_kind(ledger, [Struck("link-cut", 3.0, "w", frozenset())])["link-cut"]
    assert nobody == {"faults": 1, "streams": 0}


def test_whom_a_fault_concerns() -> None:
    def named(name: str) -> Member:
        member = Member.__new__(Member)
        member.name = name
        return member

    claims = {("w0", "s0"): frozenset("ab"), ("w1", "s1"): frozenset("c")}
    assert concerned("worker", Victims((named("w0"),)), claims) == frozenset("ab")
    assert concerned("scheduler", Victims((), (named("s1"),)), claims) == frozenset("c")
    assert concerned("both", Victims((named("w0"),), (named("s1"),)), claims) == frozenset("abc")
    assert concerned("redis", Victims(), claims) is None
