"""A host's crash cuts the append-only file off anywhere; nothing is run that was not loaded."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from scheduler_svc.queue import EmbeddedRedis, JobQueue, RowKind
from tests.scheduler_svc.queue.build import STOP, claim_ids, lease_on, row, spec, tokens_of

TOKENS = (1, 2, 3, 4)


@asynccontextmanager
async def killed(data_dir: Path) -> AsyncIterator[JobQueue]:
    """A queue whose server is killed when the block is left, and all is in its file.

    While the disk is busy with an fsync, a server holds back for up to 2 s what it answered.
    """
    redis = await asyncio.to_thread(EmbeddedRedis.start, data_dir)
    try:
        async with JobQueue(redis.url, "model") as queue:
            yield queue
        with Redis.from_url(redis.url) as asked:
            while asked.info("persistence")["aof_buffer_length"]:
                await asyncio.sleep(0.01)
    finally:
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        redis.stop()


async def commit(queue: JobQueue, job_id: str, tokens: Sequence[int]) -> None:
    """As a lane does that holds all of the tokens: what is missing is filled up."""
    lease = await lease_on(queue)
    await claim_ids(queue, lease, 9)
    offset = len(tokens) - 1
    while True:
        [answer] = await queue.commit(lease, [row(job_id, offset, tokens[offset:])])
        if answer.kind is not RowKind.SHORT:
            return
        offset = answer.length


async def write(data_dir: Path) -> tuple[bytes, int]:
    """A file of a few scripts' effects, and where the last three of them begin."""
    async with killed(data_dir) as queue:
        await queue.submit(spec(job_id="job"))
        for length in range(1, 4):
            await commit(queue, "job", TOKENS[:length])
        await queue.submit(spec(job_id="other"))
    content = (data_dir / "appendonly.aof").read_bytes()
    starts = [found.start() for found in re.finditer(rb"\*1\r\n\$5\r\nMULTI", content)]
    return content, starts[-3]


async def state(queue: JobQueue) -> list[object]:
    """Everything that a client can be told."""
    jobs = await queue.jobs()
    return [(job, [await tokens_of(queue, job.spec.job_id)]) for job in jobs]


def lay(data_dir: Path, content: bytes) -> None:
    data_dir.mkdir()
    (data_dir / "appendonly.aof").write_bytes(content)


async def check_cut(content: bytes, data_dir: Path) -> None:
    """Two starts on a torn file; what was written after the first is there after the second."""
    lay(data_dir, content)
    async with killed(data_dir) as queue:
        await commit(queue, "job", TOKENS)
        before = await state(queue)
        assert await tokens_of(queue, "job") == TOKENS
    async with killed(data_dir) as queue:
        assert await state(queue) == before
        lease = await lease_on(queue)
        assert "job" in await claim_ids(queue, lease, 9)
        await queue.commit(lease, [row("job", len(TOKENS), (), STOP)])
        assert await tokens_of(queue, "job") == TOKENS
    shutil.rmtree(data_dir)


@pytest.fixture
async def file(tmp_path: Path) -> tuple[bytes, int]:
    content, start = await write(tmp_path / "whole")
    assert start < len(content) - 500, "the last scripts wrote something"
    return content, start


async def test_a_file_that_is_cut_within_a_script_is_repaired(
    tmp_path: Path, file: tuple[bytes, int]
) -> None:
    content, start = file
    # Between the commands of a transaction, and within one of them.
    behind_multi = start + len(b"*1\r\n$5\r\nMULTI\r\n")
    for offset in (behind_multi + 1, len(content) - 120, len(content) - 3):
        await check_cut(content[:offset], tmp_path / f"cut-{offset}")


@pytest.mark.long
@pytest.mark.parametrize("part", range(8))
async def test_a_file_that_is_cut_anywhere_is_repaired(
    tmp_path: Path, file: tuple[bytes, int], part: int
) -> None:
    content, start = file
    for offset in range(start + part, len(content) + 1, 8):
        await check_cut(content[:offset], tmp_path / f"cut-{offset}")


async def test_nobody_is_let_in_before_it_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = EmbeddedRedis.start(tmp_path)
    async with JobQueue(redis.url, "model") as queue:
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        await asyncio.to_thread(os.waitid, os.P_PID, redis.pid, os.WEXITED | os.WNOWAIT)
        rewrite, refusals = EmbeddedRedis._rewrite, []

        def watched(*args: object) -> None:
            refusals.append(asyncio.run(_refusal(redis.url)))
            rewrite(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(EmbeddedRedis, "_rewrite", watched)
        await asyncio.to_thread(redis.ensure_running)
        assert [type(refusal).__name__ for refusal in refusals] == ["Unavailable"]
        await queue.submit(spec())
    redis.stop()


async def _refusal(url: str) -> BaseException | None:
    async with JobQueue(url, "model") as queue:
        [refusal] = await asyncio.gather(queue.submit(spec()), return_exceptions=True)
    return refusal if isinstance(refusal, BaseException) else None
