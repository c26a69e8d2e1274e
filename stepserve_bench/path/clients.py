"""The streams of one client process, over either edge: when each was taken, and its events came."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import uvloop

from stepserve import AsyncClient
from stepserve.protocol.errors import StepserveError
from stepserve.protocol.inference import Request
from stepserve.protocol.sampling import SamplingParams

PROMPT = tuple(range(300, 316))
MAX_LINE_BYTES = 1 << 20

Edge: TypeAlias = Literal["grpc", "http"]


@dataclass(frozen=True, slots=True)
class Times:
    """One stream: when it was asked for and taken, and when each event with tokens came.

    Seconds since the epoch, which all processes of a machine agree on.
    """

    asked_s: float
    taken_s: float
    events_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client process is to do: ``streams`` at once, or one after another."""

    edge: Edge
    address: str
    streams: int
    tokens: int
    at_once: bool = True


def stream_all(wish: Wish) -> list[Times]:
    """Do it in a loop of its own. Raises StepserveError where a stream is not whole."""
    return asyncio.run(_stream_all(wish)) if wish.edge == "grpc" else uvloop.run(_stream_all(wish))


async def _stream_all(wish: Wish) -> list[Times]:
    async with AsyncExitStack() as stack:
        one: Callable[[], Awaitable[Times]]
        if wish.edge == "grpc":
            client = await stack.enter_async_context(AsyncClient(wish.address))

            async def one() -> Times:
                return await _over_grpc(client, wish.tokens)
        else:

            async def one() -> Times:
                return await _over_http(wish.address, wish.tokens)

        if wish.at_once:
            return await asyncio.gather(*(one() for _ in range(wish.streams)))
        return [await one() for _ in range(wish.streams)]


async def _over_grpc(client: AsyncClient, tokens: int) -> Times:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    asked_s, found, count = time.time(), list[float](), 0
    async for event in client.generate(Request(prompt_token_ids=PROMPT, sampling=sampling)):
        found.append(time.time())
        count += len(event.token_ids)
    return _checked(Times(asked_s, found[0], found[1:]), count, tokens)


async def _over_http(address: str, tokens: int) -> Times:
    """As little of a client as there can be: what a real one costs is not asked here."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=MAX_LINE_BYTES)
    try:
        asked_s = time.time()
        writer.write(_request(tokens))
        status = await reader.readline()
        if b" 200 " not in status:
            raise StepserveError(f"HTTP answered {status.decode().strip()}")
        taken_s, found, count = time.time(), list[float](), 0
        async for event in _events(reader):
            if usage := event.get("usage"):
                count = usage["completion_tokens"]
            else:
                found.append(time.time())
        return _checked(Times(asked_s, taken_s, found), count, tokens)
    finally:
        writer.close()


def _request(tokens: int) -> bytes:
    body = json.dumps(
        {
            "prompt": PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Server-sent events until the stream says that it is done."""
    async for line in reader:
        if line.startswith(b"data: "):
            if line.startswith(b"data: [DONE]"):
                return
            yield json.loads(line[len(b"data: ") :])


def _checked(times: Times, count: int, tokens: int) -> Times:
    if count != tokens:
        raise StepserveError(f"a stream of {count} tokens, {tokens} were asked for")
    return times
