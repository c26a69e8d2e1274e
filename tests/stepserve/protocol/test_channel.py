"""A channel's peer goes away and comes back."""

from __future__ import annotations

import asyncio

import grpc

from stepserve.protocol.channel import channel_options

# With gRPC's own waits these take a quarter of a minute, with ours a few seconds.
NUM_ATTEMPTS, PATIENCE_S = 6, 8.0


async def test_a_peer_that_does_not_answer_is_tried_again_soon() -> None:
    num_attempts, is_enough = 0, asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_attempts
        num_attempts += 1
        writer.close()
        if num_attempts == NUM_ATTEMPTS:
            is_enough.set()

    server = await asyncio.start_server(hang_up, "127.0.0.1")
    host, port = server.sockets[0].getsockname()
    async with grpc.aio.insecure_channel(f"{host}:{port}", options=channel_options()) as channel:
        channel.get_state(try_to_connect=True)
        async with asyncio.timeout(PATIENCE_S):
            await is_enough.wait()
    server.close()
    await server.wait_closed()
