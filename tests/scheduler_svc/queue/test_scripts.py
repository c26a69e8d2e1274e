"""The scripts touch only the keys they are given, and those are all of one cluster slot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from redis import Redis

from scheduler_svc.queue import (
    Accused,
    JobQueue,
    Lease,
    LogRequest,
    Order,
    QueueLimits,
    Sighting,
    ranking,
)
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.scripts import load_scripts
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.worker_status import WorkerStatus
from tests.scheduler_svc.queue.build import (
    FINGERPRINT,
    STOP,
    claim_ids,
    lease_on,
    move_times,
    row,
    spec,
)

KEYLESS = {"TIME"}


async def every_shelf_script(queue: JobQueue) -> None:
    shelf = queue.shelf("file", str)
    await shelf.append("f", 0, b"data", 60)
    await shelf.put("f", "{}", is_open=True, ttl_s=60)
    await shelf.put("f", "{}", version=1, ttl_s=60)
    await shelf.jot("f", 1, "good", is_good=True, ttl_s=60)
    await shelf.mind("f", "me", 1000)
    await shelf.remove("f")


async def every_registry_script(queue: JobQueue) -> None:
    for name in ("a", "b"):
        await queue.registry().tell("me", [Sighting(WorkerStatus(name, "m"), 60.0)])


async def every_suspect_script(queue: JobQueue, lease: Lease, held: str) -> Lease:
    for has_crashed in (False, True):
        await queue.strike(lease, [Accused(held)], "broken", has_crashed=has_crashed)
    await queue._suspicion.remind()
    lease = await lease_on(queue)
    await queue.claim_suspects(lease, FINGERPRINT, 1)
    await queue.absolve([held])
    await queue.retire(lease)
    return lease


async def everything(queue: JobQueue, other: JobQueue, set_back: Callable[[], None]) -> None:
    """Runs every script through its branches that write; ``other`` has another order."""
    await queue.estimate("", 5)
    asked = [spec(n=2, max_tokens=1, idempotency_key=f"k{i}", deadline_s=60.0) for i in range(4)]
    for job in asked:
        await queue.submit(job)
    ids = [job.job_id for job in asked]
    await queue.waiting_by_tenant(10)
    lease = await lease_on(queue)
    await claim_ids(queue, lease, 3)
    await queue.claimed(lease)
    for each in (other, queue):
        await each.adopt_order()
    rows = [row(ids[0], 0, [1, 2], logprobs=[TokenLogprobs(-1.0)] * 2)]
    rows += [row(ids[i], 0, [1], STOP, index=j) for i in (1, 2) for j in (0, 1)]
    await queue.commit(lease, rows)
    await queue.read([LogRequest(ids[0], 0, 0, True), LogRequest(ids[1])])
    await queue.requeue(lease, [ids[0]])
    await claim_ids(queue, lease, 1)
    await queue.outgrow(lease, ids[0], 100)
    await queue.cancel(ids[0])
    set_back()
    await queue.submit(spec())
    await queue.sweep()
    await every_shelf_script(queue)
    await every_registry_script(queue)
    presence = queue.presence("replica", 1000)
    await presence.follow([ids[3]])
    await presence.cancel(ids[3], STOP)
    await queue.renew(lease, 5)
    await queue.jobs()
    await queue.attend("gone", 60_000, ["worker"])
    await queue.attend("holder", 0, ["worker"])
    await queue.depart("holder")
    lease = await lease_on(queue)
    held = (await queue.submit(spec())).job_id
    await claim_ids(queue, lease, 1)
    lease = await every_suspect_script(queue, lease, held)
    await queue.commit(lease, [row(held, 0, [1])])
    await queue.release(lease)
    lease = await lease_on(queue)
    await queue.hand_over(lease)
    lease = await queue.acquire("worker", "me", 60_000, {"fingerprint": "other"})
    assert lease is not None
    await claim_ids(queue, lease, 1, "other")
    num_forgotten = (await queue.sweep()).num_forgotten
    await queue.release(lease)
    while not num_forgotten:
        num_forgotten = (await queue.sweep()).num_forgotten


async def test_scripts_touch_only_declared_keys_of_one_slot(
    redis: Redis, redis_url: str, model: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_MAX_TENANTS", 0)
    scripts = {script.sha: script.name for script in load_scripts().values()}
    for script in load_scripts().values():
        redis.script_load(script.source)
    touched: dict[str, set[str]] = defaultdict(set)
    declared: list[str] = []
    with redis.monitor() as monitor:
        limits = QueueLimits(retention_s=0.0, on_model_change="restart", stranded_grace_s=0)
        async with (
            JobQueue(redis_url, model, limits, Order(policy="fair")) as queue,
            JobQueue(redis_url, model, limits, Order(policy="priority")) as other,
        ):
            await everything(queue, other, lambda: move_times(redis, keys, 3600.0))
        redis.echo("the end")
        name = ""
        for event in iter(monitor.next_command, None):
            words = event["command"].split(" ")
            if words[0] == "ECHO":
                break
            if words[0] == "EVALSHA":
                name, declared = scripts[words[1]], words[3 : 3 + int(words[2])]
                slots = {key.partition("{")[2].partition("}")[0] for key in declared}
                assert slots == {"workers" if name == "enrol" else model}
            elif event["client_type"] == "lua" and words[0] not in KEYLESS:
                key = words[2] if words[0] == "MEMORY" else words[1]
                assert key in declared, f"{name} touches {words[:3]}"
                touched[name].add(words[0])
    assert set(touched) == set(scripts.values()), "every script was seen"
