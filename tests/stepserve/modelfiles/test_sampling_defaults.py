"""What generation_config.json says of sampling, and what of it no request could ask for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from stepserve.modelfiles.directory import CheckpointError
from stepserve.modelfiles.sampling_defaults import read_sampling_defaults
from stepserve.protocol.sampling import SamplingParams

# As Qwen3 publishes it.
QWEN3 = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
}


def write(folder: Path, values: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, SamplingParams()),
        (QWEN3, SamplingParams(temperature=0.6, top_k=20, top_p=0.95)),
        (
            {"max_new_tokens": 2048, "repetition_penalty": 1.05, "min_p": 0, "top_k": None},
            SamplingParams(max_tokens=2048, repetition_penalty=1.05, min_p=0.0),
        ),
        ({"temperature": 0, "top_k": 0}, SamplingParams(temperature=0.0, top_k=0)),
        ({"max_length": 20, "num_beams": 4, "penalty_alpha": 0.6}, SamplingParams()),
    ],
)
def test_the_values_that_are_sampling(
    tmp_path: Path, values: dict[str, Any], expected: SamplingParams
) -> None:
    assert read_sampling_defaults(write(tmp_path, values)) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"temperature": "0.6"},
        {"temperature": True},
        {"top_p": 0},
        {"top_k": -1},
        {"top_k": 1.5},
        {"max_new_tokens": 0},
        {"repetition_penalty": 11},
    ],
)
def test_what_no_request_could_ask_for_is_left_out(
    tmp_path: Path, values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    defaults = read_sampling_defaults(write(tmp_path, {**values, "min_p": 0.5}))
    assert defaults == SamplingParams(min_p=0.5)
    [name] = values
    assert f"generation_config.json: {name} " in caplog.text
    assert "it is left out" in caplog.text


def test_no_file_says_nothing_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    assert read_sampling_defaults(tmp_path) == SamplingParams()
    with pytest.raises(CheckpointError, match="is not a JSON object"):
        read_sampling_defaults(write(tmp_path, []))
