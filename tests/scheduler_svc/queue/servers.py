"""Several real Redis servers: a primary with replicas, who watches them, a cluster."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler_svc.queue.embedded import find_server
from stepserve.process.tether import tethered_program
from stepserve_bench.chaos.forwarder import Forwarder, until_one_ends

SERVICE = "jobs"
NUM_SLOTS = 16384
WAIT_S = 30.0
_BUS = 10_000  # A node speaks to others at a port that lies so much higher.


def _free_port() -> int:
    while True:
        port = random.randint(20_000, 32_000)
        try:
            for number in (port, port + _BUS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


class Server:
    """One redis-server at a port of its own."""

    def __init__(self, directory: Path, lines: list[str], *flags: str) -> None:
        directory.mkdir(parents=True)
        self.port = _free_port()
        config = directory / "redis.conf"
        own = [f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", 'save ""']
        own += [f"logfile {directory}/redis.log"]
        config.write_text("\n".join([*own, *lines, ""]))
        self.process = subprocess.Popen(
            tethered_program(str(find_server()), str(config), *flags),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.client = Redis(
            port=self.port, socket_timeout=2.0, retry=Retry(NoBackoff(), 0), decode_responses=True
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def wait(self, is_so: Callable[[], Any]) -> None:
        """Wait until it holds; a server that does not answer yet does not."""
        end_s = time.monotonic() + WAIT_S
        while time.monotonic() < end_s:
            try:
                if is_so():
                    return
            except RedisError:
                pass
            time.sleep(0.02)
        raise AssertionError("it does not come about")

    @property
    def role(self) -> str:
        return str(self.client.role()[0])

    def follow(self, primary: Server) -> None:
        """Be a replica, and wait until there is nothing that it lacks."""
        self.client.replicaof("127.0.0.1", primary.port)
        self.wait(partial(_is_linked, self))

    def promote(self) -> None:
        self.client.replicaof("NO", "ONE")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        self.kill()


_CLUSTER = (
    "cluster-enabled yes",
    "cluster-node-timeout 1000",
    "cluster-require-full-coverage no",
)


class Servers:
    """Starts servers below a directory; all are killed in the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._started: list[Server] = []

    def start(self, *lines: str, flags: tuple[str, ...] = ()) -> Server:
        server = Server(self._directory / str(next(self._numbers)), list(lines), *flags)
        self._started.append(server)
        server.wait(server.client.ping)
        return server

    def sentinel(self, primary: Server) -> Server:
        """One that watches the primary and the replicas that it has now, and decides alone."""
        sentinel = self.start(
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 500",
            f"sentinel failover-timeout {SERVICE} 3000",
            flags=("--sentinel",),
        )
        sentinel.wait(lambda: sentinel.client.sentinel_slaves(SERVICE))
        return sentinel

    def cluster(self, num_nodes: int) -> list[Server]:
        """Nodes of which the first has all slots and the others are its replicas."""
        first, *others = nodes = self._cluster_nodes([_CLUSTER] * num_nodes)
        first.client.execute_command("CLUSTER ADDSLOTS", *range(NUM_SLOTS))
        first_id = first.client.execute_command("CLUSTER MYID")
        for node in others:
            node.wait(partial(node.client.execute_command, "CLUSTER REPLICATE", first_id))
            node.wait(partial(_is_linked, node))
        for node in nodes:
            node.wait(partial(_is_up, node))
        return nodes

    def shared_cluster(self, *lines: Sequence[str]) -> list[Server]:
        """Primaries with equal shares of the slots, in their order; each set as its lines say."""
        nodes = self._cluster_nodes([(*_CLUSTER, *each) for each in lines])
        share = NUM_SLOTS // len(nodes)
        for number, node in enumerate(nodes):
            end = NUM_SLOTS if node is nodes[-1] else (number + 1) * share
            node.client.execute_command("CLUSTER ADDSLOTS", *range(number * share, end))
        for node in nodes:
            node.wait(partial(_knows_all_slots, node))
        return nodes

    def _cluster_nodes(self, lines: Sequence[Sequence[str]]) -> list[Server]:
        """Nodes that have met the first one."""
        first, *others = nodes = [self.start(*each) for each in lines]
        for node in others:
            node.client.execute_command("CLUSTER MEET", "127.0.0.1", first.port)
        return nodes

    def close(self) -> None:
        for server in self._started:
            server.close()


def _is_linked(replica: Server) -> bool:
    return bool(replica.client.info("replication")["master_link_status"] == "up")


def _knows_all_slots(node: Server) -> bool:
    return int(node.client.cluster("INFO")["cluster_slots_assigned"]) == NUM_SLOTS


def _is_up(node: Server) -> bool:
    return bool(node.client.cluster("INFO")["cluster_state"] == "ok")


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    started = Servers(directory)
    try:
        yield started
    finally:
        started.close()


class Switch(Forwarder):
    """An address behind which another server may come to stand, as a service's virtual IP."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._behind = server

    @property
    def url(self) -> str:
        return f"redis://{self.address}/0"

    def turn_to(self, server: Server) -> None:
        """From now on connections go there; those that there are end."""
        self._behind = server
        self.cut()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", self._behind.port)
        try:
            await until_one_ends(_copy(reader, down), _copy(up, writer))
        finally:
            down.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


async def until(is_so: Callable[[], Awaitable[Any]]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(WAIT_S):
        while not await is_so():
            await asyncio.sleep(0.02)
