"""Old connections are given up, so that new schedulers get clients; streams go on."""

from __future__ import annotations

import asyncio

import grpc

from scheduler_svc.api.server import ApiServer
from scheduler_svc.settings import ApiSettings
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.inference_wire import decode_event
from tests.scheduler_svc.api.served import Served, front_ends_of, message

WAIT_S = 20.0


async def test_a_connection_ends_with_its_age_and_its_stream_does_not(served: Served) -> None:
    settings = ApiSettings(max_connection_age_s=0.2, stream_window_ms=0.0)
    api = ApiServer(front_ends_of(served.queue, served.card, settings), settings)
    address = await api.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        stream = stub.Generate(message({"prompt": "Once"}))
        job_id = decode_event(await stream.read()).job_id
        await served.lane.claim()
        async with asyncio.timeout(WAIT_S):
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.02)
        await served.lane.commit(job_id, [1, 2, 3])
        assert list(decode_event(await stream.read()).token_ids) == [1, 2, 3]
        answer = await stub.GetJob(wire.GetJobRequest(job_id=job_id), timeout=WAIT_S)
        assert answer.job_id == job_id
        stream.cancel()
    await api.stop()
