"""Whoever is gone, silent or has failed ends all, and the one with a voice says why."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from worker_svc.group import life
from worker_svc.group.life import EXIT_LOST, FAILURE, Life, beat_key

NAMES = {0: "stage 0 of 3", 1: "stage 1 of 3", 2: "stage 2 of 3"}
WAIT_S = 30.0


class Store:
    """A store in memory, which can be broken or made to hang."""

    def __init__(self) -> None:
        self.values = dict.fromkeys([FAILURE, *map(beat_key, NAMES)], b"")
        self.answers = threading.Event()
        self.answers.set()
        self.is_broken = False

    def set(self, key: str, value: str, /) -> None:
        self._answer()
        self.values[key] = value.encode()

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        self._answer()
        return [self.values[key] for key in keys]

    def _answer(self) -> None:
        self.answers.wait()
        if self.is_broken:
            raise RuntimeError("connection closed")


class Ends:
    """What has ended, by status, and what was said."""

    def __init__(self) -> None:
        self.statuses: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.said: list[str] = []

    def end(self, status: int) -> None:
        self.statuses.put(status)
        threading.Event().wait()  # the process is gone: its threads do nothing any more


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    found = Ends()
    monkeypatch.setattr(life, "BEAT_S", 0.01)
    monkeypatch.setattr(life, "MAX_SILENCE_S", 0.5)
    monkeypatch.setattr(life, "MAX_SILENCE_AT_START_S", 0.5)
    monkeypatch.setattr(life, "_end", found.end)
    monkeypatch.setattr(life, "_say", found.said.append)
    return found


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def others(store: Store) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Ranks that only beat, each until what it gives is called."""
    stops: list[threading.Event] = []

    def beat(rank: int) -> Callable[[], None]:
        stopped = threading.Event()
        stops.append(stopped)

        def run() -> None:
            number = 0
            while not stopped.wait(0.005):
                number += 1
                store.values[beat_key(rank)] = str(number).encode()

        threading.Thread(target=run, daemon=True).start()
        return stopped.set

    yield beat
    for stopped in stops:
        stopped.set()


Others = Callable[[int], Callable[[], None]]


def test_who_beats_lives_and_who_falls_silent_is_lost(
    ends: Ends, store: Store, others: Others
) -> None:
    others(1)
    silence = others(2)
    lives = Life(store, 0, NAMES)
    lives.start()
    lives.serve()
    time.sleep(3 * life.MAX_SILENCE_S)
    assert ends.statuses.empty()
    silence()
    assert ends.statuses.get(timeout=WAIT_S) == EXIT_LOST
    assert ends.said == ["stage 2 of 3 does not answer"]
    assert store.values[FAILURE] == b"4 stage 2 of 3 does not answer"


def test_a_failure_is_said_by_rank_0_alone(ends: Ends, store: Store, others: Others) -> None:
    others(2)
    leader, other = Life(store, 0, NAMES), Life(store, 1, NAMES)
    leader.start()
    threading.Thread(target=other.fail, args=("lacks tensor x", 1), daemon=True).start()
    assert [ends.statuses.get(timeout=WAIT_S) for _ in range(2)] == [1, 1]
    assert ends.said == ["lacks tensor x"]


@pytest.mark.parametrize("is_broken", [True, False])
def test_rank_0_is_missed_where_it_is_gone_or_stands_still(
    ends: Ends, store: Store, is_broken: bool
) -> None:
    lives = Life(store, 1, NAMES)
    lives.start()
    while store.values[beat_key(1)] == b"":
        time.sleep(0.001)
    if is_broken:
        store.is_broken = True
    else:
        store.answers.clear()
    assert ends.statuses.get(timeout=WAIT_S) == EXIT_LOST
    assert ends.said == [f"stage 0 of 3 {'has gone' if is_broken else 'does not answer'}"]
    store.answers.set()


def test_nobody_is_missed_once_the_group_ends(ends: Ends, store: Store, others: Others) -> None:
    silences = [others(rank) for rank in (1, 2)]
    lives = Life(store, 0, NAMES)
    lives.start()
    time.sleep(0.1)
    lives.close()
    for silence in silences:
        silence()
    time.sleep(3 * life.MAX_SILENCE_S)
    assert ends.statuses.empty()
