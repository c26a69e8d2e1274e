"""After the faults: what is stored, what is still held, and what the services counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress

from stepserve import AsyncClient
from stepserve.protocol.errors import StepserveError
from stepserve_bench.chaos.fleet import Fleet
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.member import Member
from stepserve_bench.measure.metrics import read_metrics

READERS, READ_TIMEOUT_S = 16, 60.0
PAGE = 500
# What must be nothing once every job has ended; an end takes a step or two to be told.
EMPTY = (
    "kv_blocks_used", "num_requests_running", "lane_requests_waiting", "worker_sequences",
)  # fmt: skip
# What was done meanwhile, by those who live: with who was killed its counts are gone.
COUNTED = (
    "takeovers_total", "adopted_sequences_total", "stale_commands_refused_total",
    "num_preemptions_total",
)  # fmt: skip
SETTLE_S = 60.0
POLL_S = 0.2


async def check_stored(client: AsyncClient, ledger: Ledger) -> None:
    """Read every output that has ended again, from its beginning; compare it with what was told."""
    waiting = iter([job_id for job_id, entry in ledger.entries.items() if entry.has_ended])

    async def read() -> None:
        for job_id in waiting:
            try:
                done = await client.result(job_id, timeout=READ_TIMEOUT_S)
            except StepserveError as error:
                ledger.fail(f"result {job_id}", error)
                continue
            ledger.check_stored(done)

    await asyncio.gather(*(read() for _ in range(READERS)))


async def check_known(client: AsyncClient, ledger: Ledger) -> None:
    """See that the service knows the jobs that clients were told of, no others, and all ended."""
    job_ids = []
    async for job_id, state in _all_jobs(client):
        job_ids.append(job_id)
        if state != "ended":
            ledger.problems.append(f"not ended: {job_id} is {state}")
    ledger.check_known(job_ids)


async def _all_jobs(client: AsyncClient) -> AsyncIterator[tuple[str, str]]:
    token = ""
    while True:
        page = await client.page(limit=PAGE, page_token=token)
        for job in page.jobs:
            yield job.job_id, job.state
        token = page.next_page_token
        if not token:
            return


async def check_empty(fleet: Fleet, ledger: Ledger) -> dict[str, float]:
    """See that nobody holds anything, soon; return what the services counted."""
    counted: Mapping[str, float] = {}
    held = ["metrics: nobody tells any"]
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while held:
                await asyncio.sleep(POLL_S)
                with suppress(OSError):  # one of them starts
                    counted = await scrape(fleet.members)
                    held = still_held(counted, len(fleet.workers))
    ledger.problems += [f"still held: {what}" for what in held]
    async with fleet.queue() as queue:
        if waiting := await queue.num_queued():
            ledger.problems.append(f"still held: {waiting} jobs in the queue")
    for (worker, _), job_ids in (await fleet.claims()).items():
        ledger.problems += [f"still held: {i} is claimed for {worker}" for i in job_ids]
    return {name.removesuffix("_total"): counted.get(name, 0.0) for name in COUNTED}


def still_held(counted: Mapping[str, float], num_workers: int) -> list[str]:
    """Return what should be nothing, and is not; and workers that nobody drives."""
    held = [f"{name} {value}" for name in EMPTY if (value := counted.get(name)) != 0]
    lanes = counted.get("lanes", 0)
    return held + ([f"of {num_workers} workers {lanes:g} are driven"] * (lanes != num_workers))


async def scrape(members: Iterable[Member]) -> dict[str, float]:
    """Return the services' metrics without labels, added up."""
    addresses = [member.child.fields["metrics"] for member in members]
    reading = (asyncio.to_thread(read_metrics, address, SETTLE_S) for address in addresses)
    found: dict[str, float] = {}
    for counted in await asyncio.gather(*reading):
        for name, value in counted.items():
            found[name] = found.get(name, 0.0) + value
    return found
