"""Requests and answers survive the wire; numbers that do not fit their fields are refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepserve.protocol import inference_wire as wire
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.inference import (
    ChatMessage,
    JobInfo,
    JobPage,
    ModelInfo,
    OutputInfo,
    Request,
    StreamEvent,
    Usage,
)
from stepserve.protocol.inference_wire import encode_request
from stepserve.protocol.job import Finish
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling, SamplingParams
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs
from stepserve.protocol.worker_status import WorkerStatus

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
s32 = st.integers(-(2**31), 2**31 - 1)
f32 = st.floats(width=32, allow_nan=False)
f64 = st.floats(allow_nan=False)
text = st.text(max_size=8)
ids = st.lists(u32, max_size=6)


def structured(choices: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.builds(
        StructuredOutputs,
        json=text,
        regex=text,
        choice=choices,
        grammar=text,
        json_object=st.booleans(),
    )


samplings = st.builds(
    SamplingParams,
    max_tokens=st.none() | u32,
    temperature=st.none() | f32,
    top_p=st.none() | f32,
    top_k=st.none() | u32,
    min_p=st.none() | f32,
    seed=st.none() | u64,
    stop=st.lists(text, max_size=3),
    stop_token_ids=ids,
    ignore_eos=st.none() | st.booleans(),
    presence_penalty=st.none() | f32,
    frequency_penalty=st.none() | f32,
    repetition_penalty=st.none() | f32,
    logit_bias=st.dictionaries(u32, f32, max_size=4),
    logprobs=st.none() | u32,
    n=st.none() | u32,
    min_tokens=st.none() | u32,
    prompt_logprobs=st.none() | u32,
    structured_outputs=structured(st.lists(text, max_size=3)),
)
requests = st.builds(
    Request,
    prompt=text,
    prompt_token_ids=st.none() | ids,
    messages=st.lists(st.builds(ChatMessage, text, text), max_size=3),
    sampling=samplings,
    model=text,
    priority=s32,
    tenant=text,
    idempotency_key=text,
    deadline_s=f64,
    cancel_on_disconnect=st.booleans(),
    chat_template_kwargs=st.dictionaries(
        text,
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
            max_leaves=4,
        ),
        max_size=2,
    ),
)
usages = st.builds(Usage, u64, u64, st.none() | u64)
# Of a finish the text's cut stays in the service; one without a reason is none.
finishes = st.none() | st.builds(Finish, st.text(min_size=1, max_size=8), text)
prompts = st.lists(st.tuples(f32, u32, f32), max_size=3).map(
    lambda places: PromptLogprobs.of(*(list(zip(*places, strict=True)) or [(), (), ()]))
)
logprobs = st.builds(
    TokenLogprobs, f32, st.lists(st.tuples(u32, f32), max_size=3).map(tuple), st.none() | prompts
)
events = st.builds(
    StreamEvent,
    job_id=text,
    index=u32,
    offset=u64,
    token_ids=ids.map(tuple),
    text=text,
    logprobs=st.lists(logprobs, max_size=3).map(tuple),
    finish=finishes,
    usage=st.none() | usages,
    existed=st.booleans(),
)
# Of a time there are microseconds; as far as year 9999.
times = st.integers(0, 250_000_000_000_000_000).map(lambda us: us / 1e6)
stored = st.builds(
    Sampling,
    max_tokens=u32,
    temperature=f32,
    top_p=f32,
    top_k=u32,
    min_p=f32,
    seed=u64,
    stop=st.lists(text, max_size=3).map(tuple),
    stop_token_ids=ids.map(tuple),
    ignore_eos=st.booleans(),
    presence_penalty=f32,
    frequency_penalty=f32,
    repetition_penalty=f32,
    logit_bias=st.dictionaries(u32, f32, max_size=4).map(lambda bias: tuple(sorted(bias.items()))),
    logprobs=st.integers(-1, 20),
    n=u32,
    min_tokens=u32,
    structured_outputs=structured(st.lists(text, max_size=3).map(tuple)),
)
jobs = st.builds(
    JobInfo,
    job_id=text,
    model=text,
    state=st.sampled_from(["queued", "running", "ended"]),
    arrival_s=times,
    ended_s=times,
    tenant=text,
    priority=s32,
    outputs=st.lists(st.builds(OutputInfo, u32, u64, finishes), max_size=3).map(tuple),
    usage=usages,
    note=text,
    deadline_s=times,
    queued_s=st.none() | times,
    sampling=st.none() | stored,
)
models = st.lists(st.builds(ModelInfo, text, u32, u32, u32, u64), max_size=3)
# Whole microseconds: no more is told.
moments = st.integers(0, 2**40).map(lambda us: us / 1e6)
workers = st.lists(
    st.builds(
        WorkerStatus,
        *[
            {"str": text, "int": u32, "float": moments, "float | None": st.none() | moments}[
                str(each.type)
            ]
            for each in fields(WorkerStatus)
        ],
    ),
    max_size=3,
)


def copied(request: Request) -> Request:
    """What is a view of a message becomes what a client would give."""
    asked, token_ids = request.sampling, request.prompt_token_ids
    return replace(
        request,
        prompt_token_ids=None if token_ids is None else list(token_ids),
        messages=list(request.messages),
        sampling=replace(
            asked,
            stop=list(asked.stop),
            stop_token_ids=list(asked.stop_token_ids),
            logit_bias=dict(asked.logit_bias),
        ),
    )


@given(requests)
@settings(max_examples=100)
def test_a_request_survives_the_wire(request: Request) -> None:
    data = encode_request(request).SerializeToString()
    message = wire.SubmitRequest.FromString(data)
    assert copied(wire.decode_request(message)) == request
    assert encode_request(wire.decode_request(message)) == message


@given(events)
@settings(max_examples=60)
def test_an_event_survives_the_wire(event: StreamEvent) -> None:
    assert wire.decode_event(wire.encode_event(event)) == event


@given(jobs)
@settings(max_examples=60)
def test_a_job_survives_the_wire(job: JobInfo) -> None:
    assert wire.decode_job(wire.encode_job(job)) == job


@given(models)
@settings(max_examples=50)
def test_models_survive_the_wire(models: list[ModelInfo]) -> None:
    assert wire.decode_models(wire.encode_models(models)) == tuple(models)


@settings(max_examples=30, deadline=None)
@given(workers)
def test_workers_survive_the_wire(workers: list[WorkerStatus]) -> None:
    assert wire.decode_workers(wire.encode_workers(workers)) == tuple(workers)


@pytest.mark.parametrize("state", [None, "queued", "running", "ended"])
def test_a_state_survives_the_wire(state: Any) -> None:
    assert wire.decode_state(wire.encode_state(state)) == state


def test_a_jobs_times_are_timestamps_as_well() -> None:
    job = JobInfo("job", "m", "ended", 1.5, 2.25, queued_s=0.125)
    message = wire.encode_job(job)
    assert message.arrival_time.ToJsonString() == "1970-01-01T00:00:01.500Z"
    assert message.end_time.ToJsonString() == "1970-01-01T00:00:02.250Z"
    assert message.queue_duration.ToJsonString() == "0.125s"
    assert not message.HasField("deadline_time")
    assert not wire.encode_job(replace(job, ended_s=0.0)).HasField("end_time")


@given(jobs, text)
@settings(max_examples=20)
def test_a_page_of_jobs_survives_the_wire(job: JobInfo, token: str) -> None:
    page = JobPage((job, job), token)
    assert wire.decode_jobs(wire.encode_jobs(page)) == page


def test_template_values_that_are_too_many_or_no_json_are_refused() -> None:
    message = wire.SubmitRequest()
    message.chat_template_kwargs.update({"a": "x" * wire.MAX_TEMPLATE_KWARGS_BYTES})
    with pytest.raises(InvalidRequest, match=r"^chat_template_kwargs: at most 65536 bytes"):
        wire.decode_request(message)
    message.chat_template_kwargs.update({"a": float("nan")})
    with pytest.raises(InvalidRequest, match=r"^chat_template_kwargs: has a number that is not"):
        wire.decode_request(message)
    with pytest.raises(InvalidRequest, match=r"^chat_template_kwargs: a dict that does not fit"):
        encode_request(Request("a", chat_template_kwargs={"a": object()}))


def test_a_state_that_is_none_is_refused() -> None:
    unknown: Any = "asleep"
    with pytest.raises(InvalidRequest, match=r"^state: must be one of queued"):
        wire.encode_state(unknown)
    with pytest.raises(InvalidRequest, match=r"^state: 9 is none"):
        wire.decode_state(9)


@pytest.mark.parametrize("name", [each.name for each in fields(SamplingParams)])
def test_a_sampling_value_that_is_absent_is_not_one_that_is_zero(name: str) -> None:
    message = wire.SubmitRequest()
    absent = getattr(wire.decode_request(message).sampling, name)
    if not message.sampling.DESCRIPTOR.fields_by_name[name].has_presence:
        assert len(absent) == 0
        return
    assert absent is None
    if name == "structured_outputs":
        message.sampling.structured_outputs.SetInParent()
        given = wire.decode_request(message).sampling.structured_outputs
        assert given is not None
        assert given.kinds == ()
        return
    setattr(message.sampling, name, 0)
    assert getattr(wire.decode_request(message).sampling, name) == 0


def test_a_request_is_not_copied_before_it_is_looked_at() -> None:
    """A message may hold millions of items; the front end looks at how many there are first."""
    message = encode_request(Request(prompt_token_ids=[1], messages=[ChatMessage("user", "a")]))
    request = wire.decode_request(message)
    message.prompt_token_ids.ids.append(2)
    message.messages.add(role="assistant", content="b")
    assert list(request.prompt_token_ids or ()) == [1, 2]
    assert list(request.messages) == [ChatMessage("user", "a"), ChatMessage("assistant", "b")]
    assert list(request.messages[1:]) == [ChatMessage("assistant", "b")]


TOO_LARGE = [2**64, -(2**64), 2**70]
SAMPLING = ("max_tokens", "top_k", "seed", "logprobs", "n")
ENVELOPE = ("priority", "cancel_on_disconnect")


@pytest.mark.parametrize("value", [-1, 1.5, "x", *TOO_LARGE])
@pytest.mark.parametrize("name", SAMPLING)
def test_counts_of_the_sampling(name: str, value: Any) -> None:
    sampling = SamplingParams(**{name: value})
    with pytest.raises(InvalidRequest, match=f"^sampling.{name}: a .* does not fit"):
        encode_request(Request(prompt="a", sampling=sampling))


@pytest.mark.parametrize("value", ["x", *TOO_LARGE])
@pytest.mark.parametrize("name", ENVELOPE)
def test_counts_of_the_envelope(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: a .* does not fit"):
        encode_request(Request(**{"prompt": "a", name: value}))


@pytest.mark.parametrize("value", [-1, 2**32, *TOO_LARGE, None, 1.5, "x"])
def test_token_ids(value: Any) -> None:
    for request, field in (
        (Request(prompt_token_ids=[1, value]), "prompt_token_ids"),
        (Request("a", sampling=SamplingParams(stop_token_ids=[value])), "sampling.stop_token_ids"),
        (Request("a", sampling=SamplingParams(logit_bias={value: 1.0})), "sampling.logit_bias"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: a .* does not fit"):
            encode_request(request)


def test_a_prompts_log_probabilities_travel_as_they_are_kept() -> None:
    """Their bytes, of which no number is made; a client reads numbers."""
    prompt = PromptLogprobs.of([-0.5, -2.0], [7, 300, 2**32 - 1, 0], [-0.5, -1.0, -1.5, -2.5])
    event = StreamEvent("job", token_ids=(1,), logprobs=(TokenLogprobs(-0.5, (), prompt),))
    message = wire.encode_event(event)
    data = message.SerializeToString()
    for packed in (prompt.logprobs, prompt.top_ids, prompt.top_logprobs):
        assert packed in data
    read = type(message).FromString(data)
    told = read.logprobs[0].prompt
    assert list(told.logprobs) == [-0.5, -2.0]
    assert list(told.top_token_ids) == [7, 300, 2**32 - 1, 0]
    assert list(told.top_logprobs) == [-0.5, -1.0, -1.5, -2.5]
    assert wire.decode_event(read) == event
    told.top_token_ids.append(1)
    with pytest.raises(InvalidRequest, match="belong there"):
        wire.decode_event(read)
