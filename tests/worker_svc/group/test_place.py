"""Which rank has what, and how a machine learns which ranks are its."""

from __future__ import annotations

from typing import Any

import pytest

from worker_svc.errors import WorkerUnavailable
from worker_svc.group.place import LWS_PORT, Machine, Place, is_group, machine_of, places
from worker_svc.model.part import Part
from worker_svc.settings import WorkerSettings

SET = {"LWS_LEADER_ADDRESS": "w-0.w.ns", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": "1"}


def settings(**values: Any) -> WorkerSettings:
    return WorkerSettings(model="unused", **values)


def test_ranks_are_counted_stage_by_stage() -> None:
    chosen = settings(pipeline_stages=2, tensor_parallel=2)
    ranks = places(chosen, Machine())
    assert [place.part for place in ranks] == [
        Part(0, 2, 0, 2),
        Part(0, 2, 1, 2),
        Part(1, 2, 0, 2),
        Part(1, 2, 1, 2),
    ]
    assert [place.column for place in ranks] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [place.local_rank for place in ranks] == [0, 1, 2, 3]
    assert ranks[2].name == "rank 0 of 2 in stage 1 of 2"
    assert Place.decode(ranks[3].encode()) == ranks[3]


def test_a_machine_has_its_share_of_the_ranks() -> None:
    chosen = settings(pipeline_stages=4, nodes=2, node_rank=1, rendezvous="[fd00::1]:4000")
    machine = machine_of(chosen, {})
    assert machine == Machine(1, 2, "fd00::1", 4000)
    ranks = places(chosen, machine)
    assert [(place.rank, place.local_rank, place.num_local) for place in ranks] == [
        (2, 0, 2),
        (3, 1, 2),
    ]
    assert ranks[0].name == "stage 2 of 4"


def test_one_process_is_no_group() -> None:
    assert not is_group(settings())
    assert is_group(settings(pipeline_stages=2))
    assert is_group(settings(tensor_parallel=2))


@pytest.mark.parametrize("values", [{"nodes": 2, "rendezvous": "h:1"}, {"node_rank": 1}])
def test_machines_of_one_process_do_not_each_become_a_worker(values: dict[str, Any]) -> None:
    assert is_group(settings(**values))
    with pytest.raises(WorkerUnavailable, match=r"--node"):
        machine_of(settings(**values), {})


def test_a_leader_worker_set_says_where_a_pod_stands() -> None:
    machine = machine_of(settings(pipeline_stages=2), SET)
    assert machine == Machine(1, 2, "w-0.w.ns", LWS_PORT)
    alone = {**SET, "LWS_GROUP_SIZE": "1", "LWS_WORKER_INDEX": "0"}
    assert machine_of(settings(pipeline_stages=2), alone) == Machine()
    flags = settings(pipeline_stages=2, nodes=1)
    assert machine_of(flags, SET) == Machine(), "what is asked for counts"


@pytest.mark.parametrize(
    ("values", "environment", "problem"),
    [
        ({"nodes": 2, "node_rank": 2, "rendezvous": "h:1"}, {}, "--node-rank 2: of --nodes 2"),
        ({"nodes": 3, "rendezvous": "h:1"}, {}, "--nodes 3: 2 ranks"),
        ({"nodes": 2}, {}, "need a --rendezvous HOST:PORT"),
        ({"node_rank": 1}, {}, "--node-rank: it needs --nodes"),
        ({"nodes": 2, "rendezvous": "host"}, {}, "--rendezvous host: it is no HOST:PORT"),
        ({"nodes": 2, "rendezvous": "host:0"}, {}, "--rendezvous host:0: it is no HOST:PORT"),
        ({}, {"LWS_GROUP_SIZE": "2"}, "a LeaderWorkerSet sets all of them"),
    ],
)
def test_what_does_not_fit_together_is_said(
    values: dict[str, Any], environment: dict[str, str], problem: str
) -> None:
    with pytest.raises(WorkerUnavailable, match=problem):
        machine_of(settings(pipeline_stages=2, **values), environment)
