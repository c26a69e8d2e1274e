"""Structured outputs in a worker: the oracle's tokens, however far ahead steps are launched."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason
from stepserve.protocol.structured import StructuredOutputs
from tests.checkpoints import EOS_TOKEN_ID, add_tokenizer, make_checkpoint
from tests.grammars import lone_structured, tokenizer_of
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import GREEDY, finish_all, lane_for, prompt

MAX_TOKENS = 24
ENDS = (EOS_TOKEN_ID,)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "n": {"type": "integer", "minimum": 3, "maximum": 912},
            "kind": {"enum": ["a", "bc"]},
        },
        "required": ["ok", "n", "kind"],
        "additionalProperties": False,
    }
)
ASKED = {
    "schema": StructuredOutputs(json=SCHEMA),
    "object": StructuredOutputs(json_object=True),
    "regex": StructuredOutputs(regex="(ab|c)[0-9]{2,5}"),
    "choice": StructuredOutputs(choice=("yes", "no", "no way")),
    "lark": StructuredOutputs(grammar='start: "(" start ")" | "x"'),
    "gbnf": StructuredOutputs(grammar='root ::= [a-c] root | "."'),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokens are bytes."""
    directory = make_checkpoint(tmp_path_factory.mktemp("spelled"), "llama", seed=3)
    return add_tokenizer(directory, 257)


def structured(asked: StructuredOutputs | None, **values: object) -> Sampling:
    sampling = replace(GREEDY, max_tokens=MAX_TOKENS, stop_token_ids=ENDS)
    return replace(sampling, structured_outputs=asked, **values)


@pytest.mark.parametrize("ahead", [0, 2])
def test_every_form_gives_the_oracles_tokens(folder: Path, assembled: Assemble, ahead: int) -> None:
    """Beside a sequence that may write what it likes, which does."""
    runner = assembled(model=str(folder), max_batch_size=8).runner
    lane = lane_for()
    for asked in (*ASKED.values(), None):
        lane.admit(prompt(5), structured(asked))
    finish_all(runner, lane, depth=2, ahead=ahead)
    for job, asked in zip(lane.jobs.values(), (*ASKED.values(), None), strict=True):
        assert job.tokens == lone_structured(folder, prompt(5), MAX_TOKENS, asked)
        assert job.finish in (FinishReason.STOP, FinishReason.LENGTH)


def test_ends_wait_for_min_tokens_and_for_the_text(folder: Path, assembled: Assemble) -> None:
    """A text that is complete ends all the same: nothing else may follow it."""
    runner, lane = assembled(model=str(folder)).runner, lane_for()
    cases = ((None, 9), (ASKED["schema"], 4), (StructuredOutputs(choice=("ab",)), 9))
    for asked, least in cases:
        lane.admit(prompt(7), structured(asked, min_tokens=least))
    finish_all(runner, lane, ahead=1)
    for job, (asked, least) in zip(lane.jobs.values(), cases, strict=True):
        expected = lone_structured(folder, prompt(7), MAX_TOKENS, asked, min_tokens=least)
        assert job.tokens == expected
    assert lane.jobs[3].tokens[-1] == EOS_TOKEN_ID
    assert len(lane.jobs[3].tokens) == 3


def test_a_sequence_goes_on_wherever_it_was_left(folder: Path, assembled: Assemble) -> None:
    """After a crash or a preemption its tokens lead the grammar to where it was."""
    asked = ASKED["schema"]
    whole = lone_structured(folder, prompt(5), MAX_TOKENS, asked)
    assert len(whole) > 9
    runner, lane = assembled(model=str(folder), max_step_tokens=256).runner, lane_for()
    for cut in range(1, len(whole) - 1, 5):
        lane.admit(prompt(5), structured(asked), output=whole[:cut])
    finish_all(runner, lane, depth=2, ahead=2)
    assert all(job.tokens == whole for job in lane.jobs.values())


def test_drawn_tokens_keep_to_the_text_too(folder: Path, assembled: Assemble) -> None:
    """With penalties, cuts and log-probabilities, which are those of what may be chosen."""
    runner, lane = assembled(model=str(folder)).runner, lane_for()
    asked = ASKED["regex"]
    sampling = structured(asked, temperature=1.5, top_p=0.95, logprobs=3, frequency_penalty=1.0)
    for seed in range(5):
        lane.admit(prompt(5), replace(sampling, seed=seed))
    finish_all(runner, lane, ahead=1)
    for job in lane.jobs.values():
        assert job.finish is FinishReason.STOP
        assert re.fullmatch(asked.regex.encode(), bytes_of(folder, job.tokens[:-1]))
        # "a" or "c": nothing else has a probability.
        first, second, third = (math.exp(logprob) for _, logprob in job.logprobs[0].top)
        assert (first + second, third) == pytest.approx((1.0, 0.0), abs=1e-6)


def bytes_of(folder: Path, token_ids: list[int]) -> bytes:
    return bytes(tokenizer_of(folder, 257).decode_bytes(token_ids))


def test_what_cannot_be_followed_ends_that_sequence_alone(
    folder: Path, assembled: Assemble
) -> None:
    runner, lane = assembled(model=str(folder)).runner, lane_for()
    for asked in (
        StructuredOutputs(regex="(["),
        None,
        StructuredOutputs(grammar='start: "a" start'),
    ):
        lane.admit(prompt(5), structured(asked))
    finish_all(runner, lane, ahead=1)
    finishes = [job.finish for job in lane.jobs.values()]
    assert finishes[0] is finishes[2] is FinishReason.ERROR
    assert lane.jobs[2].tokens == lone_structured(folder, prompt(5), MAX_TOKENS, None)


def test_without_a_tokenizer_no_text_can_be_followed(
    small_checkpoint: Path, assembled: Assemble
) -> None:
    assert not (small_checkpoint / "tokenizer.json").exists()
    runner, lane = assembled().runner, lane_for()
    lane.admit(prompt(5), structured(ASKED["regex"]))
    lane.admit(prompt(5), structured(None, min_tokens=MAX_TOKENS))
    finish_all(runner, lane)
    assert lane.jobs[1].finish is FinishReason.ERROR
    assert lane.jobs[2].finish is FinishReason.LENGTH
    assert EOS_TOKEN_ID not in lane.jobs[2].tokens[:-1]
