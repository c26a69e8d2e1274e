"""All lanes of one scheduler: finds the workers, and tries to hold each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence

from protos.errors import Unavailable
from scheduler_svc.lane import Shard, hold
from scheduler_svc.worker_stream import WorkerGone

log = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 2.0
RETRY_WAIT_S = 0.5


async def resolve(addresses: Sequence[str]) -> set[str]:
    """Return every ``IP:PORT`` that the ``HOST:PORT`` addresses stand for now.

    A headless Service's name stands for all its pods, so workers may come and go. A name
    that does not resolve stands for none.
    """
    found: set[str] = set()
    for address in addresses:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            infos = await loop.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )
        except OSError:
            continue
        for *_, place in infos:
            ip = str(place[0])
            found.add(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}")
    return found


class Lanes:
    """One task for each worker address that there is; each holds its worker when it can.

    Replicas share the workers by leases: whoever asks first drives, the others ask again.
    """

    def __init__(self, shard: Shard, addresses: Sequence[str]) -> None:
        self._shard = shard
        self._addresses = addresses
        self._stop = asyncio.Event()
        self._known: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow the workers until cancelled."""
        while True:
            self._known = await resolve(self._addresses)
            for address in self._known - self._tasks.keys():
                self._tasks[address] = asyncio.create_task(self._serve(address))
            for address in [a for a, task in self._tasks.items() if task.done()]:
                await self._tasks.pop(address)  # a bug of ours surfaces here
            await asyncio.sleep(DISCOVERY_INTERVAL_S)

    async def _serve(self, address: str) -> None:
        while address in self._known and not self._stop.is_set():
            try:
                await hold(self._shard, address, self._stop)
            except (WorkerGone, Unavailable) as error:
                log.debug("worker %s: %s", address, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_WAIT_S):
                    await self._stop.wait()

    async def drain(self) -> None:
        """Hand every worker over: commit, requeue, release. No generation is waited for."""
        self._stop.set()
        await asyncio.gather(*self._tasks.values())
