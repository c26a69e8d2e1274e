"""The step protocol survives the wire, and what is malformed is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepserve.protocol import step_wire as wire
from stepserve.protocol.errors import InvalidRequest
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import (
    Admission,
    FinishReason,
    Hello,
    HelloReply,
    ResidentSequence,
    StepCommand,
    StepReport,
    TokenLogprobs,
    WorkerInfo,
)
from stepserve.protocol.structured import StructuredOutputs

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
f32 = st.floats(width=32, allow_nan=False)
text = st.text(max_size=8)
ids = st.lists(u32, max_size=6).map(tuple)
scored = st.lists(st.tuples(u32, f32), max_size=4).map(tuple)

samplings = st.builds(
    Sampling,
    max_tokens=u32,
    temperature=f32,
    top_p=f32,
    top_k=u32,
    min_p=f32,
    seed=u64,
    stop_token_ids=ids,
    presence_penalty=f32,
    frequency_penalty=f32,
    repetition_penalty=f32,
    logit_bias=scored,
    logprobs=st.integers(-1, 20),
    min_tokens=u32,
    prompt_logprobs=st.integers(-1, 20),
    structured_outputs=st.none()
    | st.builds(
        StructuredOutputs,
        json=text,
        regex=text,
        choice=st.lists(text, max_size=3).map(tuple),
        grammar=text,
        json_object=st.booleans(),
    ),
)
admissions = st.builds(
    Admission,
    sequence_id=u32,
    job_id=text,
    index=u32,
    token_ids=ids,
    num_prompt_tokens=u32,
    sampling=samplings,
    num_computed=u32,
    block_ids=ids,
)
infos = st.builds(
    WorkerInfo,
    incarnation=text,
    model=text,
    fingerprint=text,
    dtype=text,
    vocab_size=u32,
    max_context=u32,
    block_size=u32,
    num_blocks=u32,
    max_batch_size=u32,
    max_step_tokens=u32,
    max_kept_reports=u32,
    launch_ahead=u32,
    num_stages=st.integers(1, 2**32 - 1),
    device=text,
    version=text,
    tensor_parallel=st.integers(1, 2**32 - 1),
    protocol_version=u32,
)
hellos = st.builds(
    Hello,
    epoch=u64,
    lane=text,
    incarnation=text,
    reset=st.booleans(),
    wants_reports=st.booleans(),
    protocol_version=u32,
)
residents = st.builds(
    ResidentSequence,
    sequence_id=u32,
    job_id=text,
    index=u32,
    num_tokens=u32,
    num_computed=u32,
    block_ids=ids,
)
replies = st.builds(
    HelloReply,
    info=infos,
    last_step=u64,
    sequences=st.lists(residents, max_size=3).map(tuple),
    num_kept_reports=u32,
    departed=st.lists(residents, max_size=3).map(tuple),
    last_sequence_id=u32,
)


@st.composite
def commands(draw: st.DrawFn) -> StepCommand:
    rows = draw(st.lists(st.tuples(u32, u32, ids), max_size=5))
    return StepCommand(
        epoch=draw(u64),
        incarnation=draw(text),
        step=draw(u64),
        committed_step=draw(u64),
        release_ids=draw(ids),
        admissions=tuple(draw(st.lists(admissions, max_size=2))),
        row_sequence_ids=tuple(row[0] for row in rows),
        row_num_tokens=tuple(row[1] for row in rows),
        row_num_new_blocks=tuple(len(row[2]) for row in rows),
        new_block_ids=tuple(block_id for row in rows for block_id in row[2]),
        max_duration_ms=draw(u32),
    )


@st.composite
def prompts(draw: st.DrawFn) -> PromptLogprobs:
    own = draw(st.lists(f32, max_size=3))
    num = len(own) * draw(st.integers(0, 2))
    numbers = {"min_size": num, "max_size": num}
    return PromptLogprobs.of(own, draw(st.lists(u32, **numbers)), draw(st.lists(f32, **numbers)))


@st.composite
def reports(draw: st.DrawFn) -> StepReport:
    tokens = draw(st.lists(st.tuples(u32, u32, u32), max_size=5))
    positions = draw(st.sets(st.integers(0, 4), max_size=3))
    logprobs = st.builds(TokenLogprobs, logprob=f32, top=scored, prompt=st.none() | prompts())
    reasons = st.sampled_from(FinishReason)
    return StepReport(
        incarnation=draw(text),
        epoch=draw(u64),
        step=draw(u64),
        token_sequence_ids=tuple(token[0] for token in tokens),
        token_offsets=tuple(token[1] for token in tokens),
        token_ids=tuple(token[2] for token in tokens),
        logprobs={at: draw(logprobs) for at in positions if at < len(tokens)},
        finished=tuple(draw(st.lists(st.tuples(u32, reasons), max_size=3))),
        freed=tuple(draw(st.lists(st.tuples(u32, ids), max_size=3))),
        duration_us=draw(u64),
        num_positions=draw(u64),
        num_context=draw(u64),
    )


def through_bytes(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@settings(max_examples=80, deadline=None)
@given(st.one_of(commands(), hellos))
def test_what_a_lane_sends_arrives(value: StepCommand | Hello) -> None:
    message = through_bytes(wire.encode_lane_message(value))
    assert wire.decode_lane_message(message) == value


@settings(max_examples=80, deadline=None)
@given(st.one_of(reports(), replies))
def test_what_a_worker_sends_arrives(value: StepReport | HelloReply) -> None:
    message = through_bytes(wire.encode_worker_message(value))
    assert wire.decode_worker_message(message) == value


@settings(max_examples=30, deadline=None)
@given(infos)
def test_a_description_arrives(info: WorkerInfo) -> None:
    assert wire.decode_info(through_bytes(wire.encode_info(info))) == info


def test_a_worker_that_knows_nothing_of_stages_and_ranks_has_one() -> None:
    found = wire.decode_info(through_bytes(wire.pb.WorkerInfo(num_blocks=7)))
    assert (found.num_stages, found.tensor_parallel) == (1, 1)


COMMAND_FIELDS = ["release_ids", "row_sequence_ids", "row_num_tokens", "row_num_new_blocks"]
REPORT_FIELDS = ["token_sequence_ids", "token_offsets", "token_ids", "finished_ids", "freed_ids"]


@pytest.mark.parametrize("field", [*COMMAND_FIELDS, "new_block_ids"])
def test_half_an_item_in_a_command_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: 3 bytes"):
        wire.decode_command(wire.pb.StepCommand(**{field: b"abc"}))


@pytest.mark.parametrize("field", [*REPORT_FIELDS, "freed_num_blocks", "freed_block_ids"])
def test_half_an_item_in_a_report_is_refused(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{field}: 3 bytes"):
        wire.decode_report(wire.pb.StepReport(**{field: b"abc"}))


COMMAND = StepCommand(
    epoch=1,
    incarnation="a",
    step=1,
    row_sequence_ids=(1, 2),
    row_num_tokens=(3, 1),
    row_num_new_blocks=(1, 0),
    new_block_ids=(7,),
)
REPORT = StepReport(
    incarnation="a",
    epoch=1,
    step=1,
    token_sequence_ids=(1, 2),
    token_offsets=(0, 5),
    token_ids=(9, 9),
    logprobs={1: TokenLogprobs(-0.5, ((9, -0.5),))},
    finished=((2, FinishReason.STOP),),
    freed=((2, (4, 5)),),
)


@pytest.mark.parametrize(
    "field", ["row_sequence_ids", "row_num_tokens", "row_num_new_blocks", "new_block_ids"]
)
def test_row_arrays_of_different_lengths_are_refused(field: str) -> None:
    message = wire.encode_command(COMMAND)
    setattr(message, field, getattr(message, field) + bytes(4) + b"\1\0\0\0")
    with pytest.raises(InvalidRequest, match="belong there"):
        wire.decode_command(message)


@pytest.mark.parametrize(
    "field", [*REPORT_FIELDS, "finish_reasons", "freed_num_blocks", "freed_block_ids"]
)
def test_report_arrays_of_different_lengths_are_refused(field: str) -> None:
    message = wire.encode_report(REPORT)
    setattr(message, field, getattr(message, field) + b"\1\0\0\0")
    with pytest.raises(InvalidRequest, match="belong there"):
        wire.decode_report(message)


def test_an_unknown_finish_reason_is_refused() -> None:
    message = wire.encode_report(REPORT)
    message.finish_reasons = b"\x09"
    with pytest.raises(InvalidRequest, match="finish_reasons"):
        wire.decode_report(message)


@pytest.mark.parametrize("position", [1, 2])
def test_logprobs_of_a_token_that_is_not_there_or_twice_are_refused(position: int) -> None:
    message = wire.encode_report(REPORT)
    message.logprobs.add(position=position, logprob=-1.0)
    with pytest.raises(InvalidRequest, match="logprobs"):
        wire.decode_report(message)


def test_scored_tokens_of_different_lengths_are_refused() -> None:
    message = wire.encode_report(REPORT)
    message.logprobs[0].top_logprobs += bytes(4)
    with pytest.raises(InvalidRequest, match="top_logprobs"):
        wire.decode_report(message)
    command = wire.pb.StepCommand()
    command.admissions.add().sampling.logit_bias_ids = bytes(4)
    with pytest.raises(InvalidRequest, match="logit_bias_values"):
        wire.decode_command(command)


def test_an_empty_envelope_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        wire.decode_lane_message(wire.pb.LaneMessage())
    with pytest.raises(InvalidRequest, match="kind"):
        wire.decode_worker_message(wire.pb.WorkerMessage())


def test_a_number_that_does_not_fit_is_not_sent() -> None:
    with pytest.raises(OverflowError):
        wire.encode_command(StepCommand(1, "a", 1, release_ids=(2**32,)))
