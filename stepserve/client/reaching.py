"""Whether a service is there at all, before anything is asked of it."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc

from stepserve.client.errors import TimedOut, Unreached, from_status
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.inference_rpc import InferenceStub

_READY = grpc.ChannelConnectivity.READY
_FAILING = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_MUTE = "it does not answer"
_ASK_TIMEOUT_S = 0.2


class _Deadline:
    """Until when it is tried: a first failure leaves less time than silence does."""

    def __init__(self, timeout_s: float, refused_s: float) -> None:
        now_s = time.monotonic()
        self.end_s = now_s + timeout_s
        self._refused_s = refused_s
        self._has_failed = False

    @property
    def left_s(self) -> float:
        return self.end_s - time.monotonic()

    def take(self, state: grpc.ChannelConnectivity) -> None:
        if state is _FAILING and not self._has_failed:
            self._has_failed = True
            self.end_s = min(self.end_s, time.monotonic() + self._refused_s)


def reach(channel: grpc.Channel, timeout_s: float, refused_s: float) -> None:
    """Connect. Raises Unreached."""
    deadline, changed, is_ready = _Deadline(timeout_s, refused_s), threading.Condition(), False

    def take(state: grpc.ChannelConnectivity) -> None:
        nonlocal is_ready
        with changed:
            is_ready = is_ready or state is _READY
            deadline.take(state)
            changed.notify()

    channel.subscribe(take, try_to_connect=True)
    try:
        with changed:
            while not is_ready and (left_s := deadline.left_s) > 0:
                changed.wait(left_s)
    finally:
        channel.unsubscribe(take)
    if is_ready:
        return
    stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
    try:
        stub.ListModels(wire.ListModelsRequest(), timeout=_ASK_TIMEOUT_S)
    except grpc.RpcError as error:
        _refuse(error)


async def reach_async(channel: grpc.aio.Channel, timeout_s: float, refused_s: float) -> None:
    """Connect. Raises Unreached."""
    deadline = _Deadline(timeout_s, refused_s)
    while (state := channel.get_state(try_to_connect=True)) is not _READY:
        deadline.take(state)
        try:
            async with asyncio.timeout(deadline.left_s):
                await channel.wait_for_state_change(state)
        except TimeoutError:
            break
    else:
        return
    stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
    try:
        await stub.ListModels(wire.ListModelsRequest(), timeout=_ASK_TIMEOUT_S)
    except grpc.RpcError as error:
        _refuse(error)


def _refuse(error: grpc.RpcError) -> None:
    """Raise Unreached by what a last call came to, unless a service ended it."""
    found = from_status(error)
    if isinstance(found, Unreached):
        raise found from error
    if isinstance(found, TimedOut):
        raise Unreached(_MUTE) from error
