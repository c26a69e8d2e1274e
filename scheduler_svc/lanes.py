"""All lanes of one scheduler: finds the workers, and tries to hold each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Sequence

from protos.errors import Unavailable
from protos.step import PROTOCOL_VERSION, Hello, WorkerInfo
from scheduler_svc.lane import Lane, LeaseLost, Shard, core_config
from scheduler_svc.queue import Lease
from scheduler_svc.recorder import recorder
from scheduler_svc.trace.recorder import trace_recorder
from scheduler_svc.worker_stream import WorkerGone, WorkerStream

log = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 2.0
RETRY_WAIT_S, MAX_RETRY_WAIT_S = 0.5, 30.0


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
        except (OSError, UnicodeError):
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
        """Drive the worker whenever it can be had; say why not once for each reason."""
        said, wait_s = "", RETRY_WAIT_S
        while address in self._known and not self._stop.is_set():
            try:
                await hold(self._shard, address, self._stop)
                said, wait_s = "", RETRY_WAIT_S
            except (WorkerGone, LeaseLost, Unavailable) as error:
                if str(error) != said:
                    log.info("worker %s: %s", address, error)
                said = str(error)
            except Exception as error:
                # A bug of ours or the worker's ends this hold; the next begins with a reset.
                log.exception("worker %s: %s, taking it anew", address, type(error).__name__)
                wait_s = min(2 * wait_s, MAX_RETRY_WAIT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stop.wait()

    async def drain(self) -> None:
        """Hand every worker over: commit, requeue, release. No generation is waited for."""
        self._stop.set()
        await asyncio.gather(*self._tasks.values())


async def hold(shard: Shard, address: str, stop: asyncio.Event) -> None:
    """Take the worker at ``address`` if it is free, drive it, and hand it over.

    Returns when it is another's, or was handed over. Raises WorkerGone where there is none
    for us, LeaseLost, Unavailable.
    """
    stream = WorkerStream(address, shard.settings.step_timeout_s)
    try:
        info = await stream.describe()
        _check(info, shard)
        ttl_ms = int(shard.settings.lease_ttl_s * 1000)
        told = {
            "incarnation": info.incarnation,
            "fingerprint": info.fingerprint,
            "max_context": str(info.max_context),
        }
        lease = await shard.queue.acquire(address, shard.holder, ttl_ms, told)
        if lease is None:
            return
        try:
            await _drive(shard, lease, stream, stop)
        finally:
            # Handed over already, in the ordinary case; else its claims wait again now.
            with contextlib.suppress(Unavailable):
                await shard.queue.release(lease)
    finally:
        await stream.close()


async def _drive(shard: Shard, lease: Lease, stream: WorkerStream, stop: asyncio.Event) -> None:
    if await _is_known_by_another_name(shard, lease):
        return
    reply = await stream.open(Hello(lease.epoch, shard.holder, reset=True))
    log.info("worker %s: driving %s", lease.worker_id, reply.info.incarnation)
    settings = shard.settings
    name = f"{lease.worker_id.replace(':', '_')}-{lease.epoch}"
    config = core_config(lease, reply, settings)
    with (
        recorder(settings.record_dir, lease) as recording,
        trace_recorder(settings.record_events_dir, name, config) as trace,
    ):
        await Lane(shard, lease, stream, reply, recording, trace).run(stop)


def _check(info: WorkerInfo, shard: Shard) -> None:
    if info.protocol_version != PROTOCOL_VERSION:
        raise WorkerGone(f"speaks protocol {info.protocol_version}, not {PROTOCOL_VERSION}")
    if info.model != shard.card.name:
        raise WorkerGone(f"serves {info.model}, not {shard.card.name}")


async def _is_known_by_another_name(shard: Shard, lease: Lease) -> bool:
    """Whether the same worker is driven under an address that comes before this one.

    A host may have several addresses; without this, two lanes would take one worker from
    each other for ever.
    """
    workers = await shard.queue.workers()
    ours = next(
        (w.info.get("incarnation") for w in workers if w.worker_id == lease.worker_id), None
    )
    return any(w.info.get("incarnation") == ours and w.worker_id < lease.worker_id for w in workers)
