"""The numbers that both services take from config.json: transformers' and vLLM's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from stepserve.modelfiles.directory import CheckpointError
from stepserve.modelfiles.facts import DEFAULTS, MAX_INT, ModelFacts, read_facts

BASE = {"model_type": "qwen2", "vocab_size": 300, "max_position_embeddings": 256}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def facts(directory: Path, **values: Any) -> ModelFacts:
    (directory / "config.json").write_text(json.dumps({**BASE, **values}))
    return read_facts(directory)


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_what_is_not_stated_is_what_transformers_takes(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoConfig.from_pretrained(tmp_path)
    expected = ModelFacts(theirs.vocab_size, theirs.max_position_embeddings)
    assert read_facts(tmp_path) == expected


@pytest.mark.parametrize(
    ("values", "max_context"),
    [
        ({}, 256),
        ({"rope_scaling": None}, 256),
        ({"rope_scaling": {"rope_type": "default"}}, 256),
        # As the cards of Qwen2.5 and Qwen3 say it.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 1024),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 1024),
        (
            {
                "max_position_embeddings": 320,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                },
            },
            1024,
        ),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2, "rope_theta": 1e6}}, 512),
        (
            {
                "max_position_embeddings": 1024,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 256,
                },
            },
            1024,
        ),
        (
            {
                "max_position_embeddings": 1024,
                "original_max_position_embeddings": 256,
                "rope_scaling": {"type": "yarn", "factor": 4.0},
            },
            1024,
        ),
        (
            {
                "max_position_embeddings": 1024,
                "rope_scaling": {
                    "type": "yarn",
                    "factor": None,
                    "original_max_position_embeddings": 256,
                },
            },
            1024,
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 1.7}}, 435),
        # As Vicuna's 16k.
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 1024),
        # Llama 3.1's max_position_embeddings is the lengthened one.
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, **LLAMA3}}, 256),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 32,
                    **LLAMA3,
                }
            },
            256,
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 256),
        ({"max_position_embeddings": 2**40}, MAX_INT),
        ({"rope_scaling": {"type": "linear", "factor": 1e15}}, MAX_INT),
    ],
    ids=str,
)
def test_the_context(tmp_path: Path, values: dict[str, Any], max_context: int) -> None:
    assert facts(tmp_path, **values).max_context == max_context


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"max_position_embeddings": None}, "max_position_embeddings is None, not a positive"),
        ({"max_position_embeddings": 256.0}, "max_position_embeddings is 256.0, not a positive"),
        ({"max_position_embeddings": "256"}, "max_position_embeddings is '256'"),
        ({"max_position_embeddings": True}, "max_position_embeddings is True"),
        ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
        ({"vocab_size": -300}, "vocab_size is -300, not a positive integer"),
        ({"vocab_size": [300]}, r"vocab_size is \[300\]"),
        ({"rope_scaling": "yarn"}, "the rope parameters are 'yarn', not an object"),
        ({"rope_scaling": {"type": "yarn", "factor": "4.0"}}, "rope factor is '4.0'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope factor is 0, not a positive"),
        ({"rope_scaling": {"type": "linear", "factor": float("inf")}}, "rope factor is inf"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "rope factor is nan"),
        ({"rope_scaling": {"type": "linear", "factor": 10**400}}, "rope factor is 1000"),
        ({"rope_scaling": {"type": "linear", "factor": 0.001}}, "leaves none"),
        (
            {
                "original_max_position_embeddings": None,
                "rope_scaling": {"type": "yarn", "factor": 2},
            },
            "original_max_position_embeddings is None, not a positive number",
        ),
    ],
    ids=str,
)
def test_a_value_of_no_use_is_refused(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        facts(tmp_path, **values)
    assert str(caught.value).startswith(f"{tmp_path}/config.json: ")


def test_an_unknown_type_must_say_it_all(tmp_path: Path) -> None:
    assert facts(tmp_path, model_type="other") == ModelFacts(300, 256)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 300}))
    with pytest.raises(CheckpointError, match="max_position_embeddings is None"):
        read_facts(tmp_path)
