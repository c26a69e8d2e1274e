"""What the running sequences come to need, from what outputs turned out to be."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler_svc.core.growth import Growth
from scheduler_svc.core.intake import sequences_of
from scheduler_svc.core.lengths import OutputLengths
from scheduler_svc.core.sequence import Sequence
from tests.scheduler_svc.core.build import core_config, job


def growth(output: int, num_blocks: int, **changes: Any) -> Growth:
    """Outputs so far had ``output`` tokens each; blocks are of 4 tokens."""
    lengths = OutputLengths()
    for _ in range(8):
        lengths.add("", output)
    config = {"num_blocks": num_blocks, "max_context": num_blocks * 4}
    return Growth(core_config(**(config | changes)), lengths)


def sequence(num_prompt_tokens: int, max_tokens: int = 100) -> Sequence:
    (found,) = sequences_of(job("a", [1] * num_prompt_tokens, max_tokens=max_tokens), 1000)
    return found


@pytest.mark.parametrize(("num_blocks", "is_held"), [(30, False), (31, True)])
def test_all_that_run_together_grow_to_what_is_expected(num_blocks: int, is_held: bool) -> None:
    # Two of 20 tokens and 40 to come: 120 tokens, and half a block for each.
    subject = growth(40, num_blocks).outlook([sequence(20)])
    assert subject.holds(sequence(20), 0) is is_held


def test_who_ends_soon_makes_room_for_who_ends_late() -> None:
    subject = growth(40, 28)
    short, long = sequence(60, max_tokens=1), sequence(20)
    # At the end of the short one: 60 + 20 tokens and one more each; later only the long one.
    assert subject.outlook([short]).holds(long, 0)
    assert not subject.outlook([sequence(60)]).holds(long, 0)


def test_what_others_hold_already_does_not_count_again() -> None:
    subject = growth(40, 27).outlook([sequence(20)])
    assert not subject.holds(sequence(20), 0)
    assert subject.holds(sequence(20), 4)


def test_newcomers_are_added_to_what_is_foreseen() -> None:
    subject = growth(40, 46).outlook([sequence(20)])
    assert subject.holds(sequence(20), 0)
    subject.add(sequence(20))
    assert not subject.holds(sequence(20), 0)
    sharing = sequence(20)
    sharing.num_shared = 4
    assert growth(40, 46).outlook([sequence(20), sharing]).holds(sequence(20), 0)


def test_where_nobody_may_be_preempted_the_limits_count() -> None:
    subject = growth(1, 15, enable_preemption=False)
    # 4 + 26 tokens, the last of which is never computed: 8 blocks.
    outlook = subject.outlook([sequence(4, max_tokens=26)])
    assert not outlook.holds(sequence(4, max_tokens=26), 0)
    assert outlook.holds(sequence(4, max_tokens=24), 0)
