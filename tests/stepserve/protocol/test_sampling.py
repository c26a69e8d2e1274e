"""One sampling value: the same fields wherever it goes, and one range for each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from stepserve.protocol import inference_wire, step_wire
from stepserve.protocol.sampling import (
    DEFAULTS,
    MAX_END_TOKENS,
    MAX_LOGIT_BIASES,
    RANGES,
    Sampling,
    SamplingParams,
)

NAMES = [each.name for each in fields(Sampling)]
VOCAB_SIZE = 2000


def proto_names(message: Any) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.fields]


def test_what_is_asked_for_has_the_same_fields_as_what_is_computed() -> None:
    assert [each.name for each in fields(SamplingParams)] == NAMES
    assert sorted(proto_names(inference_wire.SubmitRequest().sampling)) == sorted(NAMES)


def test_what_is_asked_for_can_all_be_left_open() -> None:
    asked = SamplingParams()
    assert not any(getattr(asked, name) for name in NAMES)
    assert all(getattr(asked, name) is None for name in RANGES)


def test_a_worker_is_sent_all_that_choosing_a_token_takes() -> None:
    sent = set(proto_names(step_wire.pb.Sampling())) - {"logit_bias_values"}
    renamed = {"logit_bias_ids": "logit_bias", "num_logprobs": "logprobs"}
    kept = {renamed.get(name, name) for name in sent}
    assert set(NAMES) - kept == {"stop", "ignore_eos", "n"}
    everything = Sampling(9, 0.5, 0.5, 5, 0.5, 5, ("a",), (5,), True, 1, 1, 2, ((5, 1.0),), 5, 5)
    for_worker = everything.for_worker()
    assert {name: getattr(for_worker, name) for name in kept} == {
        name: getattr(everything, name) for name in kept
    }
    assert (for_worker.stop, for_worker.ignore_eos, for_worker.n) == ((), False, 1)


def test_a_job_stores_it_as_it_always_did() -> None:
    """Jobs of the version before are there after an upgrade."""
    sampling = Sampling(9, 0.5, stop=("a",), stop_token_ids=(2,), logit_bias=((5, 1.0),))
    stored = json.loads(json.dumps(asdict(sampling)))
    before = json.loads(
        '{"max_tokens": 9, "temperature": 0.5, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 0, '
        '"stop": ["a"], "stop_token_ids": [2], "ignore_eos": false, "presence_penalty": 0.0, '
        '"frequency_penalty": 0.0, "repetition_penalty": 1.0, "logit_bias": [[5, 1.0]], '
        '"logprobs": -1, "n": 1}'
    )
    assert {name: stored[name] for name in before} == before


def test_defaults_are_no_problem() -> None:
    assert Sampling(max_tokens=1).problem(VOCAB_SIZE) == ""
    assert DEFAULTS["logprobs"] == -1


def ends() -> Iterator[tuple[str, float, bool]]:
    for name, limits in RANGES.items():
        yield name, limits.low, not limits.is_open
        yield name, limits.high, True
        yield name, math.nextafter(limits.low, -math.inf), False
        yield name, math.nextafter(limits.high, math.inf), False
        yield from ((name, value, False) for value in (math.nan, math.inf, -math.inf))


@pytest.mark.parametrize(("name", "value", "is_fine"), list(ends()))
def test_a_number_is_in_its_range(name: str, value: float, is_fine: bool) -> None:
    changed: dict[str, Any] = {name: value}
    problem = replace(Sampling(max_tokens=1), **changed).problem(VOCAB_SIZE)
    assert (problem == "") is is_fine
    assert is_fine or problem.startswith(f"{name} must be ")
    assert RANGES[name].problem(value) in problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stop_token_ids": tuple(range(MAX_END_TOKENS))}, ""),
        ({"stop_token_ids": tuple(range(MAX_END_TOKENS + 1))}, "more than 112 stop token ids"),
        ({"logit_bias": tuple((i, -100.0) for i in range(MAX_LOGIT_BIASES))}, ""),
        (
            {"logit_bias": tuple((i, 1.0) for i in range(MAX_LOGIT_BIASES + 1))},
            "more than 1024 tokens are biased",
        ),
        ({"logit_bias": ((VOCAB_SIZE, 1.0),)}, "a biased token id is not in the vocabulary"),
        ({"logit_bias": ((1, 1.0), (1, 2.0))}, "a token id is biased twice"),
        ({"logit_bias": ((1, 100.5),)}, "a bias must be from -100 to 100, not 100.5"),
        ({"logit_bias": ((1, math.nan),)}, "a bias must be from -100 to 100, not nan"),
    ],
)
def test_lists_are_bounded(change: dict[str, Any], problem: str) -> None:
    assert replace(Sampling(max_tokens=1), **change).problem(VOCAB_SIZE) == problem
