"""The edge to Redis: connections, time limits, retries, and errors in our words."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    NoScriptError,
    OutOfMemoryError,
    ResponseError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from scheduler_svc.queue.codec import Corrupt
from scheduler_svc.queue.connection import NotPrimary, Servers
from scheduler_svc.queue.limits import QueueLimits
from scheduler_svc.queue.resp import Argument, Packed, num_arguments
from scheduler_svc.queue.scripts import Script
from stepserve.metrics.histogram import Histogram
from stepserve.protocol.errors import Unavailable

Command = tuple[Argument, ...]

CALL_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)

_OUT_OF_MEMORY = re.compile(r"\bOOM\b")
_REFUSAL_CODES = re.compile(r"\b(LOADING|MISCONF|NOREPLICAS|BUSY|TRYAGAIN)\b")


# A key or a field that holds something else than the command, or the script, can work with.
_BROKEN_VALUES = re.compile(
    r"WRONGTYPE|not an integer|not a valid float|attempt to |bad argument|data string too short"
)


class Full(Unavailable):
    """Redis has no memory left for what was to be written."""


@contextmanager
def unavailable_when_down() -> Iterator[None]:
    """Turns what redis-py raises into Unavailable where the server is the cause."""
    try:
        yield
    except TimeoutError as error:
        raise Unavailable("Redis does not answer in time") from error
    except NotPrimary as error:
        raise Unavailable(f"Redis refuses: {error}") from error
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    except ResponseError as error:
        # Some have a type of their own, and in a script's error the code is in the text.
        if isinstance(error, OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
            raise Full(f"Redis refuses: {error}") from error
        if _REFUSAL_CODES.search(str(error)):
            raise Unavailable(f"Redis refuses: {error}") from error
        if _BROKEN_VALUES.search(str(error)):
            raise Corrupt(f"a stored value is of a wrong kind: {error}") from error
        raise


def _broken_or_raised(answer: Any) -> Any:
    """An answer of a pipeline, or what is wrong with the value that was asked for."""
    if not isinstance(answer, Exception):
        return answer
    try:
        with unavailable_when_down():
            raise answer
    except Corrupt as error:
        return error


class RedisLink:
    """Runs scripts and commands. Everything raises Unavailable when Redis does not serve.

    A lost connection is retried twice, so whatever is run must bear being run again.
    """

    def __init__(self, servers: Servers, limits: QueueLimits) -> None:
        pool = BlockingConnectionPool(
            **servers.options,
            connection_class=servers.connection_class,
            max_connections=limits.max_connections,
            timeout=limits.timeout_s,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), retries=2),
        )
        self._redis = Redis.from_pool(pool)
        self._execute: Callable[..., Awaitable[Any]] = self._redis.execute_command
        # One limit for the whole call, retries included. Not redis-py's own: on Python
        # 3.11 its asyncio.wait_for can swallow the cancellation of the caller's task.
        self._timeout_s = limits.timeout_s
        # How long calls took, those that failed included.
        self.call_s = Histogram(CALL_S)
        self._replicated = limits.durability == "replicated"
        self._replica_timeout_ms = int(limits.replica_timeout_s * 1000)

    async def close(self) -> None:
        await self._redis.aclose()

    async def call(self, *command: Argument) -> Any:
        async with self._limited():
            return await self._execute(*command)

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """All answers in order; the first error is raised."""
        answers = await self.each(commands)
        for answer in answers:
            if isinstance(answer, Corrupt):
                raise answer
        return answers

    async def each(self, commands: Sequence[Command]) -> list[Any]:
        """All answers in order; for a value of a wrong kind a Corrupt, which hides no other."""
        async with self._limited():
            pipe = self._redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            return [_broken_or_raised(one) for one in await pipe.execute(raise_on_error=False)]

    async def records(self, keys: Sequence[str], *fields: str) -> list[Sequence[bytes | None]]:
        """These fields of every hash, in order; of what is none, as of one that is not there."""
        found = await self.each([("HMGET", key, *fields) for key in keys]) if keys else []
        return [[None] * len(fields) if isinstance(one, Corrupt) else one for one in found]

    async def run(
        self,
        script: Script,
        keys: Sequence[str | Packed],
        args: Sequence[Argument],
        *,
        durable: bool = False,
    ) -> Any:
        """The script's answer. ``durable``: not before it has the durability that is promised."""
        command = (num_arguments(keys), *keys, *args)
        run = self._run_replicated if durable and self._replicated else self._execute
        async with self._limited():
            try:
                return await run("EVALSHA", script.sha, *command)
            except NoScriptError:  # a new server, or one that was restarted
                return await run("EVAL", script.source, *command)

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        begun_s = time.perf_counter()
        try:
            with unavailable_when_down():
                async with asyncio.timeout(self._timeout_s):
                    yield
        finally:
            self.call_s.observe(time.perf_counter() - begun_s)

    async def _run_replicated(self, *command: Argument) -> Any:
        # WAIT speaks of the writes of its own connection: the two must go over one.
        pipe = self._redis.pipeline(transaction=False)
        pipe.execute_command(*command)
        pipe.execute_command("WAIT", 1, self._replica_timeout_ms)
        answer, num_replicas = await pipe.execute()
        if num_replicas < 1:
            raise Unavailable("no replica has acknowledged the write in time")
        return answer
