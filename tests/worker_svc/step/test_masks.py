"""Structured outputs in a worker: the oracle's tokens, however far ahead steps are launched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason
from stepserve.protocol.structured import StructuredOutputs
from tests.checkpoints import EOS_TOKEN_ID, add_tokenizer, make_checkpoint
from tests.grammars import lone_structured
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
