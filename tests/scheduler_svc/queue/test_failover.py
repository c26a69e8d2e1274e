"""Real replicas are promoted: whoever uses them goes on with the new primary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from scheduler_svc.core.events import Commit
from scheduler_svc.lane.committer import Committer
from scheduler_svc.lane.held_jobs import HeldJobs
from scheduler_svc.lane.loop import Inbox
from scheduler_svc.queue import JobQueue, QueueLimits
from scheduler_svc.queue.keys import Keys
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.queue.build import (
    APPLIED,
    EXISTED,
    FINGERPRINT,
    STOP,
    UNKNOWN,
    claim_ids,
    lease_on,
    row,
    running,
    spec,
    submit,
    tokens_of,
)
from tests.scheduler_svc.queue.servers import SERVICE, Server, Servers, Switch, servers, until
from tests.scheduler_svc.queue.test_scripts import everything

T = TypeVar("T")

LIMITS = QueueLimits(timeout_s=1.0)
REPLICATED = QueueLimits(timeout_s=1.0, durability="replicated", replica_timeout_s=0.3)


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Servers]:
    with servers(tmp_path) as started:
        yield started


@pytest.fixture
def pair(some: Servers) -> tuple[Server, Server]:
    """A primary and its replica."""
    primary, replica = some.start(), some.start()
    replica.follow(primary)
    return primary, replica


def by_sentinel(sentinel: Server) -> str:
    return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/{SERVICE}"


def fail_over(sentinel: Server, replica: Server) -> None:
    """Have the replica promoted, once the sentinel knows that it can be."""
    sentinel.wait(partial(sentinel.client.execute_command, "SENTINEL FAILOVER", SERVICE))
    replica.wait(lambda: replica.role == "master")


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """As everybody does who was told to come back."""
    async with asyncio.timeout(30.0):
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(0.05)


async def persistently_submit(queue: JobQueue) -> str:
    asked = spec()
    return (await persistently(lambda: queue.submit(asked))).job_id


@pytest.mark.parametrize("how", ["killed", pytest.param("demoted", marks=pytest.mark.long)])
async def test_the_sentinels_primary_is_followed(
    some: Servers, pair: tuple[Server, Server], how: str
) -> None:
    primary, replica = pair
    sentinel = some.sentinel(primary)
    async with JobQueue(by_sentinel(sentinel), "model", LIMITS) as queue:
        lease = await lease_on(queue)
        job_id = await running(queue, lease)
        await queue.commit(lease, [row(job_id, 0, [1])])
        heard = queue.follow()
        assert (await anext(heard)).everything
        assert primary.client.wait(1, 5000) == 1
        if how == "killed":
            primary.kill()
        else:
            await asyncio.to_thread(fail_over, sentinel, replica)
        later = await persistently_submit(queue)
        async with asyncio.timeout(30.0):
            while not (await anext(heard)).everything:
                pass
            rows = [row(job_id, 1, [2], STOP)]
            answers = await persistently(lambda: queue.commit(lease, rows))
            assert answers in ([APPLIED], [EXISTED])
            while job_id not in (await anext(heard)).finished:
                pass
        assert await persistently(lambda: tokens_of(queue, job_id)) == (1, 2)
        assert replica.role == "master"
        jobs = await persistently(queue.jobs)
        assert {job.spec.job_id for job in jobs} == {job_id, later}


async def test_a_primary_that_does_not_know_that_it_is_none_is_left(
    some: Servers, pair: tuple[Server, Server]
) -> None:
    primary, replica = pair
    sentinel = some.sentinel(primary)
    async with JobQueue(by_sentinel(sentinel), "model", LIMITS) as queue:
        await submit(queue, 1)
        assert primary.client.wait(1, 5000) == 1
        primary.stop()
        try:
            await asyncio.to_thread(fail_over, sentinel, replica)
            await until(lambda: says(sentinel, replica))
            # Nobody has told it, and nobody will before it looks at its connections.
            sentinel.stop()
            primary.go_on()
            assert primary.role == "master"
            sentinel.go_on()
            while queue._servers.primary != ("127.0.0.1", replica.port):
                with suppress(Unavailable):
                    await queue.sweep()
            await persistently_submit(queue)
            assert replica.client.zcard(Keys("model").jobs) == 2
        finally:
            primary.go_on()


async def says(sentinel: Server, server: Server) -> bool:
    found = sentinel.client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
    return int(found[1]) == server.port


async def test_a_cluster_runs_every_script_and_its_primary_is_followed(some: Servers) -> None:
    first, other = await asyncio.to_thread(some.cluster, 2)
    limits = QueueLimits(timeout_s=1.0, retention_s=0.0, stranded_grace_s=0)
    url = f"redis+cluster://127.0.0.1:{first.port}"
    async with JobQueue(url, "a/model", limits) as queue, JobQueue(url, "another") as another:
        await everything(queue, queue, lambda: None)
        lease = await lease_on(another)
        job_id = await running(another, lease)
        assert first.client.wait(1, 5000) == 1
        first.kill()
        other.client.execute_command("CLUSTER FAILOVER", "TAKEOVER")
        later = await persistently_submit(another)
        rows = [row(job_id, 0, [1])]
        assert await persistently(lambda: another.commit(lease, rows)) in ([APPLIED], [EXISTED])
        assert {job.spec.job_id for job in await another.jobs()} == {job_id, later}


@pytest.fixture
async def switch(pair: tuple[Server, Server]) -> AsyncIterator[Switch]:
    async with Switch(pair[0]) as switch:
        yield switch


async def test_what_a_promoted_replica_lacks_is_written_again(
    pair: tuple[Server, Server], switch: Switch
) -> None:
    primary, replica = pair
    async with JobQueue(switch.url, "model", LIMITS) as queue:
        heard = queue.follow()
        assert (await anext(heard)).everything
        lease = await lease_on(queue)
        kept = await running(queue, lease)
        held = HeldJobs()
        committer = Committer(queue, lease, Inbox(), held)
        held.take(await queue.inherit(lease, FINGERPRINT))
        await committer.perform(Commit(1, (row(kept, 0, [1, 2]),)))
        assert primary.client.wait(1, 5000) == 1
        replica.promote()  # it hears no more of what is written
        await committer.perform(Commit(2, (row(kept, 2, [3, 4]),)))
        [waiting] = await submit(queue, 1, deadline_s=60.0, idempotency_key="key")
        [claimed, ended] = await submit(queue, 2)
        held.take(await queue.claim(lease, FINGERPRINT, 3))
        await committer.perform(Commit(3, (row(ended, 0, [5], STOP),)))
        queue._submitting.forgotten(claimed)  # another process has stored it
        switch.turn_to(replica)
        await committer.perform(Commit(4, (row(kept, 4, [5]), row(claimed, 0, [1]))))
        while not (await anext(heard)).everything:
            pass
        assert await tokens_of(queue, kept) == (1, 2, 3, 4, 5)
        stored = {job.spec.job_id: job for job in await queue.jobs()}
        assert stored.keys() == {kept, waiting, claimed, ended}
        assert stored[kept].state == "running"
        assert {stored[i].state for i in (waiting, claimed, ended)} == {"queued"}
        left_s = stored[waiting].spec.deadline_s - await queue.now_s()
        assert 30.0 < left_s < 60.0
        assert await queue.is_known("", "key")
        assert set(await claim_ids(queue, lease, 3)) == {waiting, claimed, ended}


async def test_what_was_forgotten_on_purpose_is_not_written_again(
    queue: JobQueue,
) -> None:
    lease = await lease_on(queue)
    job_id = await running(queue, lease)
    [job] = await queue.inherit(lease, FINGERPRINT)
    await queue.cancel(job_id)
    await queue.forget(job_id)
    rows = [row(job_id, 0, [1])]
    assert await queue.commit(lease, rows) == [UNKNOWN]
    assert not await queue.may_come_back()
    assert not await queue.restore(job.spec, has_output=True)
    assert await queue.job(job_id) is None


async def test_a_job_whose_client_has_another_by_its_key_is_not_stored_again(
    queue: JobQueue,
) -> None:
    queue._mending._continuity.note({"run_id": "of the server before"})
    lost, other = spec(idempotency_key="key"), spec()
    stored = await queue.submit(spec(idempotency_key="key"), "what was asked")
    assert not await queue.restore(lost, has_output=False)
    assert await queue.restore(other, has_output=False)
    assert {job.spec.job_id for job in await queue.jobs()} == {stored.job_id, other.job_id}


@pytest.mark.parametrize(
    "how", ["stopped", pytest.param("killed", marks=pytest.mark.long), "cut off from its replica"]
)
async def test_replicated_loses_no_job_that_was_acknowledged(
    pair: tuple[Server, Server], switch: Switch, how: str
) -> None:
    primary, replica = pair
    acknowledged: list[str] = []
    async with JobQueue(switch.url, "model", REPLICATED) as queue:

        async def submit_on() -> None:
            while True:
                acknowledged.append(await persistently_submit(queue))

        clients = [asyncio.create_task(submit_on()) for _ in range(8)]
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        match how:
            case "stopped":
                primary.stop()
            case "killed":
                primary.kill()
            case _:
                replica.promote()
                # Its clients go on with it for a while: it takes their jobs, and nobody is told.
                await asyncio.sleep(0.5)
        replica.promote()
        switch.turn_to(replica)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    assert set(acknowledged) <= set(replica.client.zrange(Keys("model").jobs, 0, -1))
    primary.go_on()
