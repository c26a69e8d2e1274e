"""All lanes of one scheduler: finds the workers, and tries to hold each of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence

from scheduler_svc.fleet.owners import Fleet, share_out
from scheduler_svc.fleet.post import Post
from scheduler_svc.lane.lane import Lane, LeaseLost, Shard, core_config
from scheduler_svc.lane.recorder import recorder
from scheduler_svc.lane.step_deadline import StepDeadline
from scheduler_svc.lane.worker_stream import WorkerGone, WorkerStream
from scheduler_svc.queue import Lease
from scheduler_svc.settings import SchedulerSettings
from scheduler_svc.trace.recorder import trace_recorder
from stepserve.protocol.errors import Unavailable
from stepserve.protocol.step import PROTOCOL_VERSION, Hello, WorkerInfo

log = logging.getLogger(__name__)

DISCOVERY_INTERVAL_S = 2.0
RETRY_WAIT_S, MAX_RETRY_WAIT_S = 0.5, 30.0
# How often to look who lives and who drives what, and whether another's worker answers.
LOOK_INTERVAL_S, PROBE_INTERVAL_S = 0.25, 1.0
# A look that took longer tells of a time in which leases could not be renewed.
MAX_LOOK_S = 0.5
# A worker is handed over only to somebody who has been there for so long.
SETTLE_S = 2.0


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
    """One task for each worker address that there is; each holds its worker while it should.

    Replicas share the workers out: each says in Redis that it lives and what it reaches,
    and takes and hands over what ``share_out`` tells all of them alike. Leases see to it
    that they need not agree at every moment.
    """

    def __init__(self, shard: Shard, addresses: Sequence[str]) -> None:
        self._shard = shard
        self._addresses = addresses
        self._is_stopping = False
        self._known: set[str] = set()
        self._posts: dict[str, Post] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attending = asyncio.Lock()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Follow the workers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover())
            group.create_task(self._share())

    async def _discover(self) -> None:
        """Have a task for each address; one that is gone goes when its worker does."""
        while not self._is_stopping:
            self._known = await resolve(self._addresses)
            for address in self._known - self._tasks.keys():
                self._posts[address] = Post()
                self._tasks[address] = asyncio.create_task(self._serve(address))
            for address in [a for a, task in self._tasks.items() if task.done()]:
                del self._posts[address]
                await self._tasks.pop(address)  # a bug of ours surfaces here
            await asyncio.sleep(DISCOVERY_INTERVAL_S)

    async def _share(self) -> None:
        """Look at the fleet again and again, and tell each task whether to hold its worker."""
        ttl_s = self._shard.settings.lease_ttl_s
        trusted_from_s = 0.0
        while not self._is_stopping:
            self._news.clear()
            asked_s = time.monotonic()
            fleet = await self._look()
            if fleet is None or time.monotonic() - asked_s > MAX_LOOK_S:
                # Redis was away: who could not renew a lease meanwhile comes first.
                trusted_from_s = time.monotonic() + ttl_s / 2
            elif time.monotonic() > trusted_from_s:
                self._assign(fleet)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._news.wait()

    async def _look(self) -> Fleet | None:
        """Say what we reach and learn of the others; None while Redis is away, or at the end."""
        ttl_ms = int(self._shard.settings.lease_ttl_s * 1000)
        async with self._attending:
            if self._is_stopping:
                return None
            with contextlib.suppress(Unavailable):
                return await self._shard.queue.attend(self._shard.holder, ttl_ms, self._reach())
            return None

    def _reach(self) -> list[str]:
        """The workers that answer; one that does at several addresses counts at the first."""
        first: dict[str, str] = {}
        for address, post in sorted(self._posts.items()):
            if post.incarnation:
                first.setdefault(post.incarnation, address)
        return list(first.values())

    def _assign(self, fleet: Fleet) -> None:
        us, owners = self._shard.holder, share_out(fleet)
        for address, post in self._posts.items():
            if owners.get(address) == us:
                post.keep(may_take=fleet.holders.get(address, us) == us)
            elif fleet.holders.get(address) == us:
                post.give_up_in(SETTLE_S)
            else:
                post.leave()

    async def _serve(self, address: str) -> None:
        """Drive the worker whenever we should; say why not once for each reason."""
        post, said, wait_s = self._posts[address], "", RETRY_WAIT_S
        while self._is_wanted(address):
            try:
                await self._hold(address, post)
                said, wait_s = "", RETRY_WAIT_S
            except (WorkerGone, LeaseLost, Unavailable) as error:
                if str(error) != said:
                    log.info("worker %s: %s", address, error)
                said = str(error)
            except Exception as error:
                # A bug of ours or the worker's ends this hold; the next begins with a reset.
                log.exception("worker %s: %s, taking it anew", address, type(error).__name__)
                wait_s = min(2 * wait_s, MAX_RETRY_WAIT_S)
            post.incarnation = ""  # Others may try meanwhile.
            await post.closed_within(wait_s)

    def _is_wanted(self, address: str) -> bool:
        return address in self._known and not self._is_stopping

    async def _hold(self, address: str, post: Post) -> None:
        """See that the worker answers, again and again until we should drive it; then do."""
        async with worker_stream(address, self._shard.settings) as stream:
            while self._is_wanted(address):
                info = await stream.describe()
                _check(info, self._shard)
                if post.incarnation != info.incarnation:
                    post.incarnation = info.incarnation
                    self._news.set()
                if await post.should_hold_within(PROBE_INTERVAL_S):
                    await hold(self._shard, address, stream, info, post.should_leave)
                    return

    async def drain(self) -> None:
        """Hand every worker over: commit, requeue, release. No generation is waited for."""
        self._is_stopping = True
        async with self._attending:
            # First of all, so that what we let go of is not dealt out to us.
            with contextlib.suppress(Unavailable):
                await self._shard.queue.depart(self._shard.holder)
        for post in self._posts.values():
            post.close()
        await asyncio.gather(*self._tasks.values())


async def hold(
    shard: Shard, address: str, stream: WorkerStream, info: WorkerInfo, stop: asyncio.Event
) -> None:
    """Take the worker at ``address`` if it is free, drive it until ``stop``, and hand it over.

    Returns when it is another's, or was handed over. Raises WorkerGone where there is none
    for us, LeaseLost, Unavailable.
    """
    ttl_ms = int(shard.settings.lease_ttl_s * 1000)
    told = {
        "incarnation": info.incarnation,
        "fingerprint": info.fingerprint,
        "max_context": str(info.max_context),
        "places": str(min(info.max_batch_size, shard.settings.max_batch_size)),
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


@contextlib.asynccontextmanager
async def worker_stream(address: str, settings: SchedulerSettings) -> AsyncIterator[WorkerStream]:
    """A stream to a worker, not yet open; closed in the end."""
    deadline = StepDeadline(settings.min_step_timeout_s, settings.step_timeout_s)
    stream = WorkerStream(address, deadline)
    try:
        yield stream
    finally:
        await stream.close()


async def _drive(shard: Shard, lease: Lease, stream: WorkerStream, stop: asyncio.Event) -> None:
    if await _is_known_by_another_name(shard, lease):
        raise WorkerGone("it is driven under another of its addresses")
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
