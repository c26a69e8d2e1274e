"""A server of our own: it keeps its data, is alone on it, and goes when we go."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import AuthenticationError, Redis

from scheduler_svc.queue import EmbeddedRedis, JobQueue, QueueLimits
from scheduler_svc.queue.embedded import find_server
from stepserve.protocol.errors import Unavailable
from tests.scheduler_svc.queue.build import (
    APPLIED,
    claim_ids,
    lease_on,
    row,
    running,
    spec,
    submit,
    tokens_of,
    within,
)


async def test_a_killed_server_keeps_jobs_leases_and_tokens(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path) as redis:
        async with JobQueue(redis.url, "model") as queue:
            lease = await lease_on(queue)
            job_id = await running(queue, lease)
            [waiting] = await submit(queue, 1)
            await queue.commit(lease, [row(job_id, 0, [1, 2])])
            follower = queue.follow()
            await anext(follower)
            assert redis.pid is not None
            os.kill(redis.pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitid, os.P_PID, redis.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(Unavailable):
                await queue.ping()
            assert redis.ensure_running()
            assert not redis.ensure_running()
            assert await queue.commit(lease, [row(job_id, 2, [3])]) == [APPLIED]
            assert await tokens_of(queue, job_id) == (1, 2, 3)
            assert await claim_ids(queue, lease, 9) == [waiting]
            async with within():
                assert (await anext(follower)).everything


@pytest.mark.parametrize(("durability", "fsync"), [("local", "everysec"), ("fsync", "always")])
async def test_data_outlives_the_server_and_durability_is_as_promised(
    tmp_path: Path, durability: str, fsync: str
) -> None:
    asked = spec()
    for number in range(2):
        with EmbeddedRedis.start(tmp_path, durability) as redis:  # type: ignore[arg-type]
            with Redis.from_url(redis.url) as client:
                settings = client.config_get("*")
            assert (settings["appendonly"], settings["appendfsync"]) == ("yes", fsync)
            assert (settings["maxmemory-policy"], settings["save"]) == ("noeviction", "")
            async with JobQueue(redis.url, "model") as queue:
                assert (await queue.job(asked.job_id) is not None) == bool(number)
                await queue.submit(asked)
    assert not (tmp_path / "redis.sock").exists()


def test_two_servers_on_the_same_data_are_refused(tmp_path: Path) -> None:
    with (
        EmbeddedRedis.start(tmp_path),
        pytest.raises(Unavailable, match="another Redis keeps its jobs"),
    ):
        EmbeddedRedis.start(tmp_path)
    EmbeddedRedis.start(tmp_path).stop()


def test_a_long_path_gets_a_port_and_a_password(tmp_path: Path) -> None:
    with EmbeddedRedis.start(tmp_path / ("x" * 90) / 'with "quotes" and spaces') as redis:
        assert redis.url.startswith("redis://:")
        with Redis.from_url(redis.url) as client:
            assert client.ping()
        address = "redis://" + redis.url.rpartition("@")[2]
        stranger = Redis.from_url(address, protocol=2)
        with stranger, pytest.raises(AuthenticationError):
            stranger.ping()


def test_the_server_goes_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from scheduler_svc.queue import EmbeddedRedis\n"
        "redis = EmbeddedRedis.start(pathlib.Path(sys.argv[1]))\n"
        "print(redis.pid, redis.url, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert os.getsid(int(pid)) != os.getsid(0), "Ctrl-C must not reach it"
        with Redis.from_url(url) as client:
            client.set("key", "value")
        os.kill(int(pid), signal.SIGSTOP)  # it takes its time to end
        parent.kill()
    try:
        with pytest.raises(Unavailable, match="another Redis keeps its jobs"):
            EmbeddedRedis.start(tmp_path)
    finally:
        os.kill(int(pid), signal.SIGCONT)
    with EmbeddedRedis.start(tmp_path) as redis, Redis.from_url(redis.url) as client:
        assert client.get("key") == b"value"


def test_a_given_server_is_used_and_left_alone(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPSERVE_REDIS_URL", redis_url)
    with EmbeddedRedis.start(tmp_path / "unused") as redis:
        assert (redis.url, redis.pid) == (redis_url, None)
        assert not redis.ensure_running()
    assert not (tmp_path / "unused").exists()
    with Redis.from_url(redis_url) as client:
        assert client.ping()


def test_a_server_on_the_path_is_preferred_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = find_server()
    server = tmp_path / "redis-server"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for version, found in (("7.0.15", server), ("6.0.16", bundled)):
        server.write_text(f"#!/bin/sh\necho Redis server v={version} sha=0\n")
        server.chmod(0o755)
        assert find_server().resolve() == found.resolve()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"this is not an append-only file\r\n" * 9)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"ended at its start: .*[Bb]ad file format"):
        EmbeddedRedis.start(tmp_path)
    assert time.monotonic() - started < 30.0


async def test_replicated_means_that_a_replica_has_it(tmp_path: Path) -> None:
    long_path = tmp_path / ("x" * 100)  # a port: replicas do not speak through Unix sockets
    limits = QueueLimits(durability="replicated", replica_timeout_s=0.2)
    with (
        EmbeddedRedis.start(long_path / "primary") as primary,
        EmbeddedRedis.start(long_path / "replica") as replica,
        Redis.from_url(replica.url) as client,
    ):
        async with JobQueue(primary.url, "model", limits) as queue:
            asked = spec()
            with pytest.raises(Unavailable, match="no replica"):
                await queue.submit(asked)
            password, _, address = primary.url.removeprefix("redis://:").partition("@")
            host, _, port = address.removesuffix("/0").partition(":")
            client.config_set("masterauth", password)
            client.replicaof(host, port)
            async with within(30.0):
                while client.info("replication")["master_link_status"] != "up":
                    await asyncio.sleep(0.01)
            assert (await queue.submit(asked)).job_id == asked.job_id
            lease = await lease_on(queue)
            assert await claim_ids(queue, lease, 1) == [asked.job_id]
            assert await queue.commit(lease, [row(asked.job_id, 0, [1])]) == [APPLIED]
        async with JobQueue(replica.url, "model") as reader:
            assert await tokens_of(reader, asked.job_id) == (1,)
            with pytest.raises(Unavailable, match=r"refuses: .*read only"):
                await reader.submit(spec())
