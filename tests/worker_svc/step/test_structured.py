"""Two hundred schemas, each output valid; and what it costs that half of the rows have one."""

from __future__ import annotations

import json
import random
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason
from stepserve.protocol.structured import StructuredOutputs
from tests.checkpoints import EOS_TOKEN_ID
from tests.grammars import tokenizer_of
from tests.worker_svc.conftest import Assemble
from tests.worker_svc.drive import finish_all, prompt
from tests.worker_svc.lane import Lane

STORYTELLER = Path(__file__).parents[3] / "stepserve_bench/demo/storyteller/model"
NUM_SCHEMAS, BATCH_SIZE, BLOCK_SIZE, NUM_BLOCKS = 200, 50, 16, 4096
PACES = 5

SCALARS: tuple[dict[str, Any], ...] = (
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": -9, "maximum": 5000},
    {"enum": ["red", "green", 7, None]},
    {"const": {"a": [1]}},
    {"type": "string", "maxLength": 12},
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "string", "format": "date"},
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"const": "none"}]},
)


def schema(chance: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose texts are not long; its objects' properties may be left out."""
    kind = chance.choice(("object", "array", "scalar")) if depth else "scalar"
    if kind == "object":
        names = [f"p{i}" for i in range(chance.randint(1, 3))]
        return {
            "type": "object",
            "properties": {name: schema(chance, depth - 1) for name in names},
            "required": [name for name in names if chance.random() < 0.8],
            "additionalProperties": False,
        }
    if kind == "array":
        fewest = chance.randint(0, 2)
        items = schema(chance, depth - 1)
        return {"type": "array", "items": items, "minItems": fewest, "maxItems": fewest + 1}
    return chance.choice(SCALARS)


def storyteller(assembled: Assemble) -> Any:
    return assembled(
        model=str(STORYTELLER), dtype="float32", kernels="cpu", block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS, max_batch_size=BATCH_SIZE, max_step_tokens=2048,
    ).runner  # fmt: skip


@pytest.mark.long  # every form against the oracle is in make test
def test_every_output_of_200_schemas_is_valid(assembled: Assemble) -> None:
    chance = random.Random(5)
    runner = storyteller(assembled)
    tokenizer = tokenizer_of(STORYTELLER, 1152)
    plain = Sampling(600, stop_token_ids=(EOS_TOKEN_ID,))
    for start in range(0, NUM_SCHEMAS, BATCH_SIZE):
        lane, schemas = Lane(NUM_BLOCKS, BLOCK_SIZE), [schema(chance) for _ in range(BATCH_SIZE)]
        for number, each in enumerate(schemas):
            asked = StructuredOutputs(json=json.dumps(each))
            sampling = replace(plain, seed=start + number, structured_outputs=asked)
            lane.admit(prompt(6, number), sampling)
        finish_all(runner, lane)
        runner.reset()
        for job, each in zip(lane.jobs.values(), schemas, strict=True):
            assert job.finish is FinishReason.STOP, each
            jsonschema.validate(json.loads(tokenizer.decode_str(job.tokens[:-1])), each)


@pytest.mark.long  # a rate
def test_half_of_the_rows_structured_cost_a_tenth_at_most(assembled: Assemble) -> None:
    """Tokens a second of a batch, half of which writes JSON, by those of one that writes freely.

    Seconds are the process's own: other work on the machine is not what is measured.
    """
    runner = storyteller(assembled)
    asked = StructuredOutputs(
        json='{"type":"array","items":{"type":"string","minLength":20},"minItems":50}'
    )
    plain = Sampling(100, stop_token_ids=())
    ended = replace(plain, stop_token_ids=(EOS_TOKEN_ID,))

    def pace(structured: StructuredOutputs | None) -> float:
        lane = Lane(NUM_BLOCKS, BLOCK_SIZE)
        for number in range(BATCH_SIZE):
            is_plain = structured is None or number % 2
            sampling = plain if is_plain else replace(ended, structured_outputs=structured)
            lane.admit(prompt(6, number), replace(sampling, seed=number))
        begin_s = time.process_time()
        finish_all(runner, lane)
        taken_s = time.process_time() - begin_s
        runner.reset()
        return sum(len(job.tokens) for job in lane.jobs.values()) / taken_s

    pace(asked)
    shares = [pace(asked) / pace(None) for _ in range(PACES)]
    print(f"half of {BATCH_SIZE} rows structured: {statistics.median(shares):.3f} of the rate")
    assert statistics.median(shares) >= 0.9
