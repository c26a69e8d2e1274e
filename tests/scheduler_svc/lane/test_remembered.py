"""What a lane remembers of outputs: all of it, and in little memory."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import pytest

from scheduler_svc.lane import remembered
from scheduler_svc.lane.remembered import RememberedOutput
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.step import TokenLogprobs

NUM_TOKENS = 2000


def logprobs(position: int, count: int) -> TokenLogprobs:
    numbers = [-(position + i / 7) for i in range(count + 1)]
    first, *rest = struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers))
    return TokenLogprobs(first, tuple((1000 * position + i, v) for i, v in enumerate(rest)))


@pytest.mark.parametrize("offset", [0, 1, 7, 8])
def test_it_gives_back_what_it_was_given(offset: int) -> None:
    entries = [logprobs(i, i % 3) for i in range(8)]
    entries[0] = replace(entries[0], prompt=PromptLogprobs.of([-0.5, -2.0], [3, 4], [-0.5, -1.0]))
    output = RememberedOutput()
    output.extend(range(3), entries[:3])
    output.extend(range(3, 8), entries[3:])
    log = output.since(offset)
    assert len(output) == 8
    assert log.token_ids == tuple(range(offset, 8))
    assert log.logprobs == tuple(entries[offset:])


def test_without_log_probabilities_there_are_none() -> None:
    output = RememberedOutput()
    output.extend((5, 6), ())
    assert (output.since(1).token_ids, output.since(1).logprobs) == ((6,), ())


def num_bytes_held() -> int:
    """What was allocated there and is held; freed tuples that Python keeps do not count."""
    here = tracemalloc.Filter(True, remembered.__file__)
    traces = tracemalloc.take_snapshot().filter_traces([here]).traces
    return sum(trace.size for trace in traces)


def test_it_takes_little_more_than_what_travels_and_gives_it_back() -> None:
    tracemalloc.start()
    try:
        output = RememberedOutput()
        for i in range(NUM_TOKENS):
            output.extend((i,), (logprobs(i, 20),))
        held = num_bytes_held()
        del output
        left = num_bytes_held()
    finally:
        tracemalloc.stop()
    travels = 4 + 4 + 20 * 8  # The token, its log-probability, and the likeliest.
    assert travels < held / NUM_TOKENS < 1.25 * travels
    assert left < 10_000


def test_what_is_no_token_is_refused() -> None:
    with pytest.raises(OverflowError):
        RememberedOutput().extend((-1,), ())
