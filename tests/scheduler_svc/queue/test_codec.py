"""Records as other versions wrote them: jobs outlive an upgrade."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields, replace
from typing import Any

import pytest

from scheduler_svc.queue.codec import (
    Corrupt,
    decode_finish,
    decode_logprobs,
    decode_spec,
    encode_finish,
    encode_logprobs,
    encode_spec,
)
from stepserve.protocol.job import Finish, JobSpec
from stepserve.protocol.packed import pack
from stepserve.protocol.prompt_logprobs import PromptLogprobs
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs

SAMPLING = Sampling(
    max_tokens=7,
    temperature=0.5,
    top_p=0.5,
    top_k=3,
    min_p=0.25,
    seed=9,
    stop=("a", "b"),
    stop_token_ids=(4,),
    ignore_eos=True,
    presence_penalty=1.0,
    frequency_penalty=-1.0,
    repetition_penalty=2.0,
    logit_bias=((5, 1.5),),
    logprobs=2,
    n=3,
    min_tokens=2,
    structured_outputs=StructuredOutputs(choice=("a", "b")),
)
SPEC = JobSpec("job", "model", (1, 2), SAMPLING, "print", 3, "tenant", "key", 8.0, 4.0, True)
RECORD = json.loads(encode_spec(SPEC))


def read(record: object) -> JobSpec:
    return decode_spec(json.dumps(record).encode(), pack(SPEC.prompt_token_ids), b"4", b"8")


def test_what_a_version_before_does_not_know_is_written_where_it_is_asked_for() -> None:
    plain = replace(SPEC, sampling=replace(SAMPLING, min_tokens=0, structured_outputs=None))
    record = json.loads(encode_spec(plain))
    assert not {"min_tokens", "structured_outputs"} & record["sampling"].keys()
    assert read(record) == plain


def test_what_was_written_is_read() -> None:
    assert read(RECORD) == SPEC
    finish = Finish("stop", "why", 5)
    assert decode_finish(encode_finish(finish).encode()) == finish


def test_a_trace_is_kept_and_where_there_is_none_versions_before_can_read_it() -> None:
    assert "trace" not in RECORD
    traced = replace(SPEC, trace="00-a-b-01 x=1")
    assert read(json.loads(encode_spec(traced))) == traced


@pytest.mark.parametrize("field", fields(Sampling), ids=lambda field: field.name)
def test_a_value_that_came_later_has_its_default(field: Field[Any]) -> None:
    rest = {name: value for name, value in RECORD["sampling"].items() if name != field.name}
    record = {**RECORD, "sampling": rest}
    if field.default is MISSING:
        with pytest.raises(Corrupt, match=field.name):
            read(record)
    else:
        assert getattr(read(record).sampling, field.name) == field.default


@pytest.mark.parametrize("name", ["tenant", "priority", "cancel_on_disconnect"])
def test_so_has_a_field_of_the_job(name: str) -> None:
    record = {key: value for key, value in RECORD.items() if key != name}
    assert getattr(read(record), name) == getattr(JobSpec("", "", (), SAMPLING), name)


@pytest.mark.parametrize(
    "record",
    [
        {**RECORD, "colour": 1},
        {**RECORD, "sampling": {**RECORD["sampling"], "colour": 1}},
        {key: value for key, value in RECORD.items() if key != "sampling"},
        {**RECORD, "sampling": 5},
        [],
    ],
)
def test_what_is_not_known_or_not_there_is_no_record(record: object) -> None:
    with pytest.raises(Corrupt):
        read(record)


@pytest.mark.parametrize("text", [b"{}", b'{"reason": "stop", "colour": 1}', b"none"])
def test_an_end_that_is_none(text: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_finish(text)


PROMPT = PromptLogprobs.of([-0.5, -2.0], [7, 8, 9, 10], [-0.5, -1.0, -1.5, -2.5])
ENTRIES = [
    TokenLogprobs(-0.5, ((7, -0.5), (8, -1.0))[:num_top], prompt)
    for num_top in (0, 1, 2)
    for prompt in (None, PromptLogprobs(), PromptLogprobs.of([-3.0], (), ()), PROMPT)
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_log_probabilities_are_read_as_they_were_written(entry: TokenLogprobs) -> None:
    assert decode_logprobs(encode_logprobs(entry)) == entry


@pytest.mark.parametrize("size", [0, 1, 3, 8, 9, 11, 13, 21])
def test_what_is_no_entry_of_log_probabilities(size: int) -> None:
    whole = encode_logprobs(ENTRIES[-1])
    assert len(whole) == 65
    with pytest.raises(Corrupt):
        decode_logprobs(whole[len(whole) - size :])


def test_who_does_not_know_of_prompts_reads_jobs_that_do_not_ask() -> None:
    assert "prompt_logprobs" not in encode_spec(SPEC)
    asked = replace(SPEC, sampling=replace(SPEC.sampling, prompt_logprobs=0))
    assert '"prompt_logprobs":0' in encode_spec(asked)
