"""A step's rows as the arguments of one command."""

from __future__ import annotations

import struct

import pytest

from scheduler_svc.queue import RECORD_ERRORS
from scheduler_svc.queue.codec import encode_finish, encode_logprobs
from scheduler_svc.queue.keys import Keys
from scheduler_svc.queue.resp import Packed, PacksFast, num_arguments, packed
from scheduler_svc.queue.rows import RowEncoder
from stepserve.protocol.job import CommitRow, Finish
from stepserve.protocol.step import TokenLogprobs

KEYS = Keys("model")
ENTRY = TokenLogprobs(-0.5, ((7, -0.5),))
LENGTH = Finish("length")
ROWS = (
    CommitRow("a", 0, 5, (10,)),
    CommitRow("b", 1, 0, (20, 21), (ENTRY, ENTRY)),
    CommitRow("c", 0, 9, (), (), LENGTH),
)


def test_every_row_has_its_names_numbers_tokens_and_extras() -> None:
    cached = {("b", 1): 32, ("c", 0): 16}
    names, (heads, tokens, begun, *payload) = RowEncoder(KEYS).encode(ROWS, cached)
    wanted = [KEYS.job("a"), KEYS.log("a", 0), KEYS.job("b"), KEYS.log("b", 1)]
    wanted += [KEYS.lp("b", 1), KEYS.job("c"), KEYS.log("c", 0)]
    assert names == Packed(7, packed(wanted))
    assert isinstance(heads, bytes)
    assert isinstance(tokens, bytes)
    assert isinstance(begun, bytes)
    assert struct.unpack("<15I", heads) == (0, 5, 1, 0, 0, 1, 0, 2, 2, 0, 0, 9, 0, 0, 2)
    assert struct.unpack("<3I", tokens) == (10, 20, 21)
    assert struct.unpack("<2I", begun) == (1, 32), "c was begun long ago"
    assert payload == [encode_logprobs(ENTRY)] * 2 + [encode_finish(LENGTH)]


@pytest.mark.parametrize(
    "row",
    [
        CommitRow("a", 0, 0, (-1,)),
        CommitRow("a", 0, 0, (2**32,)),
        CommitRow("a", 0, 0, (1, 2), (ENTRY,)),
        CommitRow("a", 0, -1, (1,)),
    ],
)
def test_a_row_that_cannot_be_written_is_known_as_such(row: CommitRow) -> None:
    with pytest.raises(RECORD_ERRORS):
        RowEncoder(KEYS).encode([ROWS[0], row])


def test_packed_arguments_count_as_what_they_are() -> None:
    names = Packed(2, packed(["x", "yé"]))
    assert num_arguments([names, "z"]) == 3
    command = PacksFast().pack_command("EVALSHA", 2, names, b"\r\n", 1.5)
    plain = PacksFast().pack_command("EVALSHA", 2, "x", "yé", b"\r\n", 1.5)
    assert command == plain
