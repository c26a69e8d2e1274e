"""Faults of every kind, one after another, on a service under load: nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepserve_bench.chaos.command import Chaos

SMALL: dict[str, Any] = {"schedulers": 2, "streams": 8, "max_tokens": 120, "progress": False}


def ran(**settings: Any) -> dict[str, Any]:
    found = Chaos(**SMALL, **settings).measured()
    print(json.dumps(found["stalls"]))
    return found


def check(found: dict[str, Any], num_faults: int) -> None:
    assert found["problems"] == []
    assert found["faults"] == num_faults
    assert found["jobs"] > 10
    assert found["tokens"] > 1000


@pytest.mark.timeout(240)
def test_faults_of_many_kinds_lose_nothing(tmp_path: Path) -> None:
    # Without a tokenizer, which takes a scheduler most of the time of its start.
    config = {"vocab_size": 512, "max_position_embeddings": 1024}
    (tmp_path / "config.json").write_text(json.dumps(config))
    kinds = (
        "worker-kill,thread-stop,scheduler-kill,both-kill,link-cut,link-hole,client-cut,redis-torn,"
        "redis-failover,poison"
    )
    model = str(tmp_path)
    check(ran(model=model, workers=2, faults=10, apart_s=0.8, kinds=kinds, seed=3, step_ms=40), 10)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("worker", ["oracle", "model"])
def test_faults_of_all_kinds_lose_nothing(worker: str, tmp_path: Path) -> None:
    picture = tmp_path / "chaos.svg"
    found = ran(workers=3, faults=40, apart_s=1.5, worker=worker, picture=str(picture), seed=7)
    check(found, 40)
    assert picture.stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_rolling_restart_shows_no_client_an_error() -> None:
    check(ran(workers=2, faults=2, apart_s=25, kinds="rolling-restart"), 2)
