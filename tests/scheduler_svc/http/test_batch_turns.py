"""Whose batches are worked on, where there are more than places."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.http.batch_turns import TURN_S, Turns


def turns(places: int, open_ids: str, begun: str = "") -> Turns:
    """Batches are named by their tenant and a number: "a0 a1 b0"."""
    made = Turns(places)
    made.open({name: name[0] for name in open_ids.split()})
    for at, name in enumerate(begun.split()):
        made.begun(name, float(at))
    return made


def test_places_are_shared_out_by_tenant() -> None:
    made = turns(4, "a0 a1 a2 a3 a4 b0 c0")
    order = []
    for name in made.waiting():
        if not made.has_room:
            break
        made.begun(name, float(len(order)))
        order.append(name)
    assert order == ["a0", "b0", "c0", "a1"]


def test_who_has_two_more_gives_the_last_one_up() -> None:
    made = turns(4, "a0 a1 a2 a3 b0", "a0 a1 a2 a3")
    assert made.leaves_for("b0", 4.0) == "a3"
    made.over("a3")
    assert next(made.waiting()) == "b0"
    made.begun("b0", 5.0)
    assert made.leaves_for("a3", 6.0) is None


def test_a_tenant_without_a_place_gets_one_in_turn() -> None:
    made = turns(2, "a0 b0 c0", "a0 b0")
    assert made.leaves_for("c0", TURN_S - 1) is None
    assert made.leaves_for("c0", TURN_S) == "a0"
    made.over("a0")
    assert list(islice(made.waiting(), 1)) == ["c0"], "whose turn was longest ago"


def test_one_tenant_alone_has_all_and_keeps_them() -> None:
    made = turns(2, "a0 a1 a2", "a0 a1")
    assert made.leaves_for("a2", 10 * TURN_S) is None


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=12))
def test_every_tenant_is_served_in_bounded_time(tenants: list[str]) -> None:
    """Whatever is open, and though no batch ever ends."""
    names = [f"{tenant}{number}" for number, tenant in enumerate(tenants)]
    made, now_s, served = turns(2, " ".join(names)), 0.0, set[str]()
    working: list[str] = []
    while now_s < TURN_S * (len(set(tenants)) + 1):
        for name in list(made.waiting()):
            if made.has_room:
                made.begun(name, now_s)
                working.append(name)
                served.add(name[0])
            elif (leaves := made.leaves_for(name, now_s)) is not None:
                working.remove(leaves)
                made.over(leaves)
                break
        assert len(working) <= 2
        now_s += 1.0
    assert served == set(tenants)
