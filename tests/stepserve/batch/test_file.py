"""Lines that are no requests are results as well; what has ended is not run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepserve.batch.file import (
    BatchFailed,
    BatchLine,
    Progress,
    check_output,
    parse_lines,
    read_input,
)


def line(content: bytes) -> BatchLine:
    _, [found] = parse_lines(content, "m")
    return found


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e", "\r"])
def test_other_ends_of_lines_are_text(end: str, tmp_path: Path) -> None:
    text = f"a{end}b"
    content = json.dumps({"prompt": text}, ensure_ascii=False).encode()
    _, lines = parse_lines(content + b"\r\n\r\n \n" + content, "m")
    assert [found.request and found.request.prompt for found in lines] == [text, text]
    assert [found.number for found in lines] == [0, 3]
    progress = Progress(tmp_path / "out", "d")
    progress.add(0, {"text": text})
    progress.close()
    progress = Progress(tmp_path / "out", "d")
    assert progress.results == {0: {"text": text}}
    progress.close()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"prompt": "a", "priority": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"prompt": "a", "arrival_s": ' + b"1" * 400 + b"}", "too many digits"),
        (
            b'{"prompt": "a", "sampling": {"top_p": ' + b"1" * 400 + b"}}",
            "sampling.top_p: must be a finite number",
        ),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"prompt": "a", "sampling": ' + b'{"a":' * 200_000, "nested too deeply"),
        (b'{"prompt": "a", "arrival_s": 1e999}', "arrival_s"),
        (b'{"prompt": "a", "arrival_s": NaN}', "arrival_s"),
        (b'{"prompt": "a", "arrival_s": -0.1}', "arrival_s"),
        (b'{"prompt": "a", "arrival_s": true}', "arrival_s"),
        (b'{"prompt": "a", "arrival_s": "1"}', "arrival_s"),
        (b'{"prompt": "a\xff"}', "not UTF-8 at byte 13"),
        (b'{"prompt": "a"', "not JSON"),
        (b"7", "a line is a JSON object"),
        (b'{"\\ud800": 1}', "half of a surrogate pair"),
        (b'{"prompt": "a", "sampling": {"logit_bias": {"\\ud800": 1}}}', "logit_bias[\ud800]"),
    ],
)
def test_a_line_that_is_no_request_is_an_error(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    _, [before, bad, after] = parse_lines(b'{"prompt":"a"}\n' + content + b'\n{"prompt":"b"}', "m")
    assert before.request is not None
    assert after.request is not None
    assert bad.request is None
    assert problem in bad.error
    progress = Progress(tmp_path / "out", "d")
    progress.add(bad.number, {"error": {"message": bad.error}})
    progress.finish()
    assert json.loads((tmp_path / "out").read_bytes()) == {"error": {"message": bad.error}}


def test_arrivals_are_read() -> None:
    assert line(b'{"prompt": "a", "arrival_s": 2}').arrival_s == 2.0
    assert line(b'{"prompt": "a", "arrival_s": 0.25}').arrival_s == 0.25
    assert line(b'{"prompt": "a", "arrival_s": null}').arrival_s == 0.0


def test_a_line_is_the_same_job_for_the_same_model_only() -> None:
    def keys(content: bytes, model: str) -> list[str]:
        _, lines = parse_lines(content, model)
        return [found.request.idempotency_key for found in lines if found.request is not None]

    content = b'{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": "a", "idempotency_key": "k"}'
    first, second, third = keys(content, "m")
    assert (first != second, third) == (True, "k")
    assert keys(content, "m") == [first, second, third]
    assert keys(content, "other")[0] != first
    assert keys(content + b"\n", "m")[0] != first


def test_a_run_goes_on_after_a_cut_line(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    partial = out.with_name("out.partial")
    progress = Progress(out, "d")
    progress.add(1, {"text": "one"})
    progress.add(0, {"text": "zero"})
    progress.close()
    partial.write_bytes(partial.read_bytes()[:-9])
    progress = Progress(out, "d")
    assert progress.results == {1: {"text": "one"}}
    progress.add(0, {"text": "zero"})
    progress.close()
    progress = Progress(out, "d")
    assert len(progress.results) == 2
    progress.finish()
    assert list(map(json.loads, out.read_bytes().splitlines())) == [
        {"text": "zero"},
        {"text": "one"},
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_another_inputs_results_are_dropped(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "out", "d")
    progress.add(0, {"text": "zero"})
    progress.close()
    for _ in range(2):
        progress = Progress(tmp_path / "out", "e")
        assert progress.results == {}
        progress.close()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BatchFailed, match="is not a file"):
        check_output(tmp_path, tmp_path / "file")
    with pytest.raises(BatchFailed, match="is not a file"):
        check_output(Path("/dev/null"), tmp_path / "file")
    check_output(tmp_path / "file", Path("/dev/null"))
    with pytest.raises(BatchFailed, match="would be overwritten"):
        check_output(tmp_path / "file", tmp_path / "file")
    check_output(tmp_path / "absent", tmp_path / "file")
    with pytest.raises(BatchFailed, match="No such file"):
        read_input(tmp_path / "absent")
    with pytest.raises(BatchFailed, match=r"out\.partial: "):
        Progress(tmp_path / "file" / "out", "d")
    progress = Progress(tmp_path / "late", "d")
    (tmp_path / "late").mkdir()
    with pytest.raises(BatchFailed, match="late: "):
        progress.finish()
