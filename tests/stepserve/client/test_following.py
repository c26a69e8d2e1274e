"""Where a stream goes on, decided without any connection."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from stepserve.client.completion import Collector
from stepserve.client.errors import StepserveError, Unavailable
from stepserve.client.following import Following
from stepserve.client.retry import Retry, RetryPolicy
from stepserve.protocol.inference import StreamEvent, Usage
from stepserve.protocol.inference_wire import AttachRequest, SubmitRequest
from stepserve.protocol.job import Finish
from stepserve.protocol.step import TokenLogprobs

JOB = StreamEvent("job")


class Failed(grpc.RpcError):
    """A call that ended with a status."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "why"

    def trailing_metadata(self) -> None:
        return None


def test_until_there_is_output_the_first_request_is_sent_again() -> None:
    request = SubmitRequest(prompt="Once", idempotency_key="k")
    following = Following(request, 1)
    assert following.request() is request
    assert following.take(JOB) is JOB
    assert following.request() is request
    following.take(StreamEvent("job", 0, 0, (1, 2)))
    assert following.request() == AttachRequest(job_id="job", offsets=[2])


def test_each_output_goes_on_where_it_is() -> None:
    following = Following(AttachRequest(job_id="job", offsets=[4, 5, 6]), None)
    following.take(StreamEvent("job", 1, 5, (1, 2), finish=Finish("stop")))
    assert following.needs_outputs
    following.num_outputs = 3
    assert following.request() == AttachRequest(job_id="job", offsets=[4, 7, 6])


def test_an_end_is_told_once_and_the_usage_after_it_alone() -> None:
    """After a reconnect an output that had ended ends again, with the text held back."""
    following, collector = Following(SubmitRequest(), 2), Collector()
    ends = [
        StreamEvent("job", index, 3, (7,), "text", (TokenLogprobs(-1.0),), Finish("stop"))
        for index in range(2)
    ]
    again = StreamEvent("job", 0, 4, text="held back", finish=Finish("stop"))
    for event in ends:
        assert following.take(event) is event
        collector.add(event)
    assert following.take(again) is None
    with pytest.raises(StepserveError, match="ended before the job"):
        following.closed()
    last = following.take(replace(again, usage=Usage(1, 2)))
    assert last == StreamEvent("job", 0, 4, usage=Usage(1, 2))
    assert following.is_complete
    following.closed()
    collector.add(last)
    completion = collector.completion()
    assert [output.text for output in completion.outputs] == ["text"] * 2
    assert [output.finish_reason for output in completion.outputs] == ["stop"] * 2
    assert completion.usage == Usage(1, 2)


def test_pauses_grow_and_stay_bounded_and_end() -> None:
    retry = Retry(RetryPolicy(first_pause_s=0.1, max_pause_s=1.0, patience_s=3600.0))
    lost = Failed(grpc.StatusCode.UNAVAILABLE)
    pauses = [retry.pause_s(lost) for _ in range(50)]
    for number, pause_s in enumerate(pauses):
        longest = min(1.0, 0.1 * 2**number)
        assert 0.5 * longest <= pause_s <= longest
    retry.succeeded()
    assert retry.pause_s(lost) <= 0.1
    told: list[tuple[str, float]] = []
    telling = RetryPolicy(tell=lambda error, failing_s: told.append((str(error), failing_s)))
    Retry(telling).pause_s(lost)
    assert told == [("why", 0.0)]
    with pytest.raises(Unavailable):
        Retry(RetryPolicy(), end_s=0.0).pause_s(lost)
    with pytest.raises(StepserveError, match="INTERNAL: why"):
        retry.pause_s(Failed(grpc.StatusCode.INTERNAL))
    with pytest.raises(Unavailable):
        Retry(RetryPolicy(patience_s=0.0)).pause_s(lost)
