"""Workers are assigned evenly, with as few hand-overs as that takes, and each of them once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from scheduler_svc.fleet.owners import assign_workers
from scheduler_svc.queue import Fleet

SCHEDULERS = ("a", "b", "c", "d")
WORKERS = tuple(f"w{i}" for i in range(9))
everybody = st.sets(st.sampled_from(SCHEDULERS), min_size=1)
# Whoever holds a worker and is not among the living has died: its lease is good still.
held = st.dictionaries(st.sampled_from(WORKERS), st.sampled_from((*SCHEDULERS, "dead")))
reachable = st.sets(st.sampled_from(WORKERS))


def fleet_of(living: set[str], reach: set[str], holders: dict[str, str]) -> Fleet:
    """All reach the same; those who hold a worker live, or are named "dead"."""
    living = living | (set(holders.values()) - {"dead"})
    reaches = dict.fromkeys(living, frozenset(reach | holders.keys()))
    return Fleet(reaches, holders)


def sizes(fleet: Fleet, owners: dict[str, str]) -> list[int]:
    counts = Counter(owners.values())
    return sorted(counts[scheduler] for scheduler in fleet.reaches)


def fewest_moves(fleet: Fleet, num_free: int) -> int:
    """How many must be handed over at least so that the numbers differ by one at most."""
    counts = sorted(Counter(fleet.holders.values())[s] for s in fleet.reaches)
    each, num_larger = divmod(sum(counts) + num_free, len(counts))
    wanted = [each] * (len(counts) - num_larger) + [each + 1] * num_larger
    return sum(max(0, have - want) for have, want in zip(counts, wanted, strict=True))


@given(living=everybody, reach=reachable, holders=held)
def test_numbers_are_even_and_no_more_moves_than_that_takes(
    living: set[str], reach: set[str], holders: dict[str, str]
) -> None:
    fleet = fleet_of(living, reach, holders)
    owners = assign_workers(fleet)
    assert owners.keys() == reach | holders.keys()
    smallest, *_, largest = [*sizes(fleet, owners), *sizes(fleet, owners)[-1:]]
    assert largest - smallest <= 1
    moved = [worker for worker, owner in holders.items() if owners[worker] != owner]
    assert len(moved) == fewest_moves(fleet, len(reach - holders.keys()))
    assert all(holders[worker] != "dead" for worker in moved)
    assert assign_workers(Fleet(fleet.reaches, owners)) == owners, "what is even stays as it is"


@given(
    living=everybody,
    holders=held,
    reaches=st.fixed_dictionaries({s: st.frozensets(st.sampled_from(WORKERS)) for s in SCHEDULERS}),
)
def test_nobody_is_given_what_it_does_not_reach(
    living: set[str], holders: dict[str, str], reaches: dict[str, frozenset[str]]
) -> None:
    fleet = Fleet({scheduler: reaches[scheduler] for scheduler in living}, holders)
    owners = assign_workers(fleet)
    for worker, owner in owners.items():
        assert owner == holders.get(worker) or worker in reaches[owner]
    assert owners.keys() >= holders.keys()


@dataclass
class World:
    """Schedulers that act on what they saw, one at a time and in any order."""

    fleet: Fleet
    holders: dict[str, str]
    num_handed_over: Counter[str] = field(default_factory=Counter)

    def act(self, scheduler: str) -> bool:
        """Take one worker or hand one over; False where there is nothing to do."""
        owners = assign_workers(Fleet(self.fleet.reaches, self.holders))
        for worker in WORKERS:
            holder, owner = self.holders.get(worker), owners.get(worker)
            if holder == scheduler != owner:
                del self.holders[worker]
                self.num_handed_over[worker] += 1
                return True
            if holder is None and owner == scheduler:
                self.holders[worker] = scheduler
                return True
        return False


@given(living=everybody, reach=reachable, holders=held, turns=st.lists(st.sampled_from(SCHEDULERS)))
def test_in_whatever_order_they_act_each_worker_moves_once(
    living: set[str], reach: set[str], holders: dict[str, str], turns: list[str]
) -> None:
    fleet = fleet_of(living, reach, holders)
    world = World(fleet, dict(holders))
    for scheduler in turns:
        if scheduler in fleet.reaches:
            world.act(scheduler)
    while any(list(map(world.act, fleet.reaches))):
        pass
    counts = sizes(fleet, world.holders)
    assert counts[-1] - counts[0] <= 1
    assert all(times == 1 for times in world.num_handed_over.values())
    assert world.num_handed_over.total() == fewest_moves(fleet, len(reach - holders.keys()))


def test_a_newcomer_gets_as_many_and_a_dead_one_s_are_assigned() -> None:
    reach = frozenset(WORKERS[:4])
    alone = Fleet({"a": reach}, {})
    assert sizes(alone, assign_workers(alone)) == [4]
    joined = Fleet({"a": reach, "b": reach, "c": reach}, dict.fromkeys(reach, "a"))
    assert sizes(joined, assign_workers(joined)) == [1, 1, 2]
    left = Fleet({"a": reach, "c": reach}, {"w0": "a", "w1": "c"})
    assert sizes(left, assign_workers(left)) == [2, 2]
