"""Redis's primary dies under load: its replica is promoted, and every stream goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.service import faulty_service, make_long_checkpoint
from tests.fault.streams import flowing
from tests.scheduler_svc.queue.servers import SERVICE, Servers, servers

NUM_STREAMS = 9
MAX_STALL_S = 30.0


@pytest.fixture
def some(tmp_path: Path) -> Iterator[Servers]:
    with servers(tmp_path / "redis") as started:
        yield started


@pytest.mark.long
async def test_streams_go_on_with_the_promoted_replica(some: Servers, tmp_path: Path) -> None:
    primary, replica = some.start("appendonly yes"), some.start("appendonly yes")
    replica.follow(primary)
    sentinel = some.sentinel(primary)
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"
    with faulty_service(make_long_checkpoint(tmp_path / "llama"), url) as service:
        service.add_workers(2)
        service.add_schedulers(2)
        async with flowing(service.schedulers[0].fields["grpc"], NUM_STREAMS) as streams:
            async with asyncio.timeout(120.0):
                await streams.flow()
                # The last that is written before the end never reaches the replica.
                replica.stop()
                await streams.flow(time.monotonic(), count=3)
                primary.kill()
                replica.go_on()
                struck_s = time.monotonic()
                stalls_s = await streams.stalls_s(struck_s)
                streams.check_texts()
        assert replica.role == "master"
    print(f"primary killed: stalls of {stalls_s[-1]:.2f} s at most, {stalls_s[4]:.2f} s median")
    assert stalls_s[-1] < MAX_STALL_S
