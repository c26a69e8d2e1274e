"""Faults are a function of the seed; every kind comes as often as any other."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import get_args

import pytest

from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.chaos.command import Chaos
from stepserve_bench.chaos.kinds import KINDS, USUAL, Part
from stepserve_bench.chaos.picture import COLOURS
from stepserve_bench.chaos.schedule import LONGEST_GAP, schedule
from stepserve_bench.chaos.strikes import _STRIKES


def test_a_seed_says_all() -> None:
    faults = schedule(5, USUAL, 100, 2.0)
    assert faults == schedule(5, USUAL, 100, 2.0)
    assert faults != schedule(6, USUAL, 100, 2.0)
    assert faults[:60] == schedule(5, USUAL, 60, 2.0)


def test_faults_are_apart_and_in_no_step() -> None:
    gaps = [b.at_s - a.at_s for a, b in pairwise(schedule(1, USUAL, 200, 2.0))]
    assert min(gaps) >= 2.0
    assert max(gaps) <= 2.0 * LONGEST_GAP
    assert len(set(gaps)) == len(gaps)


def test_kinds_come_equally_often_and_last_as_they_say() -> None:
    faults = schedule(2, USUAL, 3 * len(USUAL), 1.0)
    assert set(Counter(fault.kind for fault in faults).values()) == {3}
    for fault in faults:
        least, most = KINDS[fault.kind].lasts_s
        assert least <= fault.lasts_s <= most


def test_every_victim_is_chosen_sometimes() -> None:
    chosen = {fault.choose("abc") for fault in schedule(3, USUAL, 50, 1.0)}
    assert chosen == set("abc")


def test_every_kind_can_be_done() -> None:
    assert _STRIKES.keys() == KINDS.keys()


def test_a_model_has_no_job_that_crashes_it() -> None:
    assert "poison" not in Chaos(worker="model")._kinds()
    assert "poison" in Chaos()._kinds()
    with pytest.raises(InvalidRequest, match="'poison' needs --worker oracle"):
        Chaos(worker="model", kinds="worker-kill,poison")._kinds()


def test_each_part_has_its_colour() -> None:
    assert COLOURS.keys() == set(get_args(Part))
