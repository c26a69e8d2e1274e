"""The API that clients build on stays what v1 said it is; `make buf` asks buf itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tests.house.protos import INFERENCE, broken, described, promised, promises, unusual
from tests.house.sources import ROOT

SOURCE = (ROOT / "protos" / INFERENCE).read_text()


def changed(folder: Path, before: str, after: str) -> FileDescriptorProto:
    """Return the API with something in it replaced."""
    assert SOURCE.count(before) == 1
    path = folder / INFERENCE
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE.replace(before, after))
    [file] = described(folder)
    return file


def test_what_v1_promises_is_there() -> None:
    [file] = described()
    assert broken(promised(), promises(file)) == []


def test_what_is_new_is_promised_too() -> None:
    [file] = described()
    new = promises(file).keys() - promised().keys()
    assert not new, "python -m tests.house.protos writes it down"


def test_names_are_as_buf_would_have_them() -> None:
    files = described(ROOT / "protos", INFERENCE, "stepserve/v1/worker.proto")
    assert [name for file in files for name in unusual(file)] == []


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        ("string page_token = 5;", "", "ListJobsRequest = 5"),
        ("string page_token = 5;", "string page_token = 6;", "ListJobsRequest = 5"),
        ("string page_token = 5;", "bytes page_token = 5;", "ListJobsRequest = 5"),
        ("string page_token = 5;", "string token = 5;", "ListJobsRequest = 5"),
        ("repeated uint64 offsets = 3;", "uint64 offsets = 3;", "AttachRequest = 3"),
        ("optional uint32 n = 15;", "uint32 n = 15;", "SamplingParams = 15"),
        ("string prompt = 2;", "oneof input { string prompt = 2; }", "SubmitRequest = 2"),
        ("JOB_STATE_ENDED = 3;", "JOB_STATE_OVER = 3;", "JobState = 3"),
        ("returns (DeleteJobResponse);", "returns (Job);", "Inference.DeleteJob"),
        (
            "rpc Submit(SubmitRequest) returns (SubmitResponse);",
            "rpc Submit(SubmitRequest) returns (stream SubmitResponse);",
            "Inference.Submit",
        ),
        ("package stepserve.v1;", "package stepserve.v2;", "package"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, before: str, after: str, place: str) -> None:
    found = broken(promised(), promises(changed(tmp_path, before, after)))
    assert [line for line in found if line.startswith(f"{place}: was ")]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ("string page_token = 5;", "string pageToken = 5;", "pageToken"),
        ("JOB_STATE_ENDED = 3;", "ENDED = 3;", "ENDED"),
        ("JOB_STATE_UNSPECIFIED = 0;", "JOB_STATE_NONE = 0;", "JOB_STATE_NONE"),
        ("message DeleteJobResponse {}", "message DeleteJobResponse {} message a_b {}", "a_b"),
    ],
)
def test_an_unusual_name_is_found(tmp_path: Path, before: str, after: str, name: str) -> None:
    assert unusual(changed(tmp_path, before, after)) == [name]
