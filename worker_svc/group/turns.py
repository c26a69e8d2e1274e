"""What rank 0 tells the others, so that every rank's pure core does the same in the same order.

A turn is a kind and, for a step, the bytes of its command. Each is one message of a fixed size,
which the others wait for; only what is longer needs a second one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum

import torch
from torch import Tensor

from stepserve.protocol import step_wire
from stepserve.protocol.step import StepCommand
from worker_svc.group.wire import Wire

# A step of 256 rows that decode is told in it.
FRAME_BYTES = 4096
HEAD_BYTES = 5


class Turn(IntEnum):
    """What is to be done next."""

    # Plan and launch the command that comes with it.
    STEP = 1
    # Settle the oldest step that is not settled.
    SETTLE = 2
    # Let go of every sequence; every step is settled.
    RESET = 3
    # The first steps were computed: what they compiled is there.
    WARM = 4
    # The worker ends.
    END = 5


def encode(command: StepCommand) -> bytes:
    """A command as it is told."""
    return step_wire.encode_command(command).SerializeToString()


def decode(payload: bytes) -> StepCommand:
    """The command that was told."""
    return step_wire.decode_command(step_wire.pb.StepCommand.FromString(payload))


def frames(turn: Turn, payload: bytes = b"") -> list[Tensor]:
    """A turn as one or two messages, uint8 each."""
    whole = len(payload).to_bytes(HEAD_BYTES - 1, "little") + bytes([turn]) + payload
    first = whole[:FRAME_BYTES].ljust(FRAME_BYTES, b"\0")
    parts = [first, whole[FRAME_BYTES:]] if len(whole) > FRAME_BYTES else [first]
    return [torch.frombuffer(bytearray(part), dtype=torch.uint8) for part in parts]


class TurnWriter:
    """Tells the others, in a thread of its own: whoever has a turn to tell never waits.

    ``lost`` is called with the error where one can't be told any more.
    """

    def __init__(self, wire: Wire, others: list[int], lost: Callable[[Exception], None]) -> None:
        self._wire = wire
        self._others = others
        self._lost = lost
        self._told: queue.SimpleQueue[tuple[Turn, bytes]] = queue.SimpleQueue()
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="turns").start()

    def tell(self, turn: Turn, payload: bytes = b"") -> None:
        """The next turn."""
        self._told.put((turn, payload))

    def wait_ended(self, timeout_s: float) -> None:
        """Wait until END is told, if it can be."""
        self._ended.wait(timeout_s)

    def _run(self) -> None:
        turn = None
        while turn is not Turn.END:
            turn, payload = self._told.get()
            try:
                parts = frames(turn, payload)
                for rank in self._others:
                    for part in parts:
                        self._wire.send(part, rank)
                if turn is Turn.END:
                    self._wire.flush()
            except Exception as error:  # of torch
                self._lost(error)
                return
        self._ended.set()


def turns(wire: Wire, leader: int = 0) -> Iterator[tuple[Turn, bytes]]:
    """What the leader tells, as it comes. Raises RuntimeError where it can't be heard."""
    frame = torch.empty(FRAME_BYTES, dtype=torch.uint8)
    while True:
        wire.receive(frame, leader)
        data = frame.numpy().tobytes()
        size, turn = int.from_bytes(data[: HEAD_BYTES - 1], "little"), Turn(data[HEAD_BYTES - 1])
        payload = data[HEAD_BYTES : HEAD_BYTES + size]
        if len(payload) < size:
            rest = torch.empty(size - len(payload), dtype=torch.uint8)
            wire.receive(rest, leader)
            payload += rest.numpy().tobytes()
        yield turn, payload
