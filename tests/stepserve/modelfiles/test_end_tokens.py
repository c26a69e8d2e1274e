"""Which ids end an output: those that end it in transformers, or refused where it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, LlamaConfig, LogitsProcessor

from stepserve.modelfiles.directory import CheckpointError
from stepserve.modelfiles.end_tokens import read_end_tokens

VOCAB_SIZE = 60
PAD = 1
REFUSED = "refused"
Absent = Enum("Absent", "ABSENT")
ABSENT = Absent.ABSENT
VALUES: list[Any] = [
    7,
    0,
    59,
    60,
    -1,
    5000,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    -(2**70),
    [7, 8],
    [7, -1],
    [7, 5000, 2**32],
    [7, 2**64],
    [8, 8, 7],
    [-5],
    [],
    None,
    [None],
    [7, None],
    7.0,
    7.5,
    -0.5,
    [7.0],
    [7.5, 8],
    float("nan"),
    float("inf"),
    1e300,
    True,
    False,
    [True],
    "7",
    "</s>",
    ["7"],
    {"a": 7},
]


class _Forced(LogitsProcessor):  # type: ignore[misc]
    """Row i chooses id i, and then 0."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = torch.arange(VOCAB_SIZE) if input_ids.shape[1] == 1 else torch.zeros(VOCAB_SIZE)
        return torch.zeros_like(scores).scatter(1, wanted.long()[:, None], 1.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 16}
    folder = tmp_path_factory.mktemp("end-tokens")
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **heads)).save_pretrained(folder)
    return folder


@contextmanager
def saying(directory: Path, config: Any, generation: Any) -> Iterator[None]:
    """With these in the files; ABSENT: without the key, or without the file."""
    path = directory / "config.json"
    before = path.read_text()
    values = {**json.loads(before), "eos_token_id": config}
    if config is ABSENT:
        del values["eos_token_id"]
    path.write_text(json.dumps(values))
    other = directory / "generation_config.json"
    other.unlink(missing_ok=True)
    if generation is not ABSENT:
        other.write_text(json.dumps(generation))
    yield
    path.write_text(before)


def theirs(directory: Path) -> Any:
    """The ids after which transformers' generate goes no further, of all there are."""
    try:
        model = AutoModelForCausalLM.from_pretrained(directory)
        prompts = torch.full((VOCAB_SIZE, 1), 2)
        options = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": PAD}
        chosen = model.generate(prompts, logits_processor=[_Forced()], **options)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, OverflowError):
        return REFUSED
    return {row for row in range(VOCAB_SIZE) if chosen[row, -1] == PAD}


def ours(directory: Path) -> Any:
    try:
        return set(read_end_tokens(directory, VOCAB_SIZE) or ())
    except CheckpointError:
        return REFUSED


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_of_the_generation_config(directory: Path, value: Any) -> None:
    with saying(directory, 9, {"eos_token_id": value}):
        assert ours(directory) == theirs(directory)


@pytest.mark.parametrize("value", [*VALUES, ABSENT], ids=str)
def test_of_the_config(directory: Path, value: Any) -> None:
    with saying(directory, value, ABSENT):
        assert ours(directory) == theirs(directory)


@pytest.mark.parametrize(
    ("config", "generation"),
    [
        (9, {}),
        (9, {"max_length": 20}),
        (ABSENT, {"eos_token_id": 7}),
        (-1, {"eos_token_id": 7}),
        (2**64, {"eos_token_id": 7}),
        ("x", {"eos_token_id": 7}),
        ([7, None], {"eos_token_id": 7}),
    ],
    ids=str,
)
def test_of_both(directory: Path, config: Any, generation: Any) -> None:
    with saying(directory, config, generation):
        assert ours(directory) == theirs(directory)


def test_nothing_said_is_told_from_nothing_that_ends(directory: Path) -> None:
    for config, generation, expected in (
        (None, ABSENT, None),
        (9, {"eos_token_id": None}, None),
        (-1, ABSENT, ()),
        (9, {"eos_token_id": [-1, 60]}, ()),
    ):
        with saying(directory, config, generation):
            assert read_end_tokens(directory, VOCAB_SIZE) == expected


def test_what_is_left_out_is_said(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with saying(directory, 9, {"eos_token_id": [7, -1, 5000]}):
        assert read_end_tokens(directory, VOCAB_SIZE) == (7,)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    path = directory / "generation_config.json"
    assert record.getMessage() == f"{path}: eos_token_id -1, 5000 is left out: no token has it"


@pytest.mark.parametrize("text", ["no json", "[]", "3"])
def test_a_broken_file_is_refused(directory: Path, text: str) -> None:
    with saying(directory, 9, {}):
        (directory / "generation_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            read_end_tokens(directory, VOCAB_SIZE)
