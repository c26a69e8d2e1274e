from __future__ import annotations

import gzip
import io
import json
import logging
from pathlib import Path

import pytest

from scheduler_svc.core.events import Claim, Claimed
from scheduler_svc.trace.encode import BadTrace
from scheduler_svc.trace.file import TraceReader, open_trace
from scheduler_svc.trace.recorder import TraceRecorder, trace_recorder
from tests.scheduler_svc.core.build import core_config, job
from tests.scheduler_svc.trace.tape import Tape, TapedCore


def tape() -> Tape:
    tapes: list[Tape] = []
    core = TapedCore(core_config(), tapes)
    core.handle(())
    core.handle((Claimed((job("a"), job("b"))),))
    return tapes[0]


def num_turns(text: str) -> int:
    return len(list(TraceReader(io.StringIO(text)).turns()))


def test_a_torn_last_line_is_not_there() -> None:
    text = tape().text
    assert num_turns(text) == 2
    last = text.rindex("\n", 0, -1) + 1
    assert {num_turns(text[:end]) for end in range(last, len(text))} == {1}


def test_a_torn_header_is_no_trace() -> None:
    header = tape().text.partition("\n")[0]
    for text in ("", header, header[:-1] + "\n", "{}\n", "[]\n"):
        with pytest.raises(BadTrace):
            num_turns(text)


def test_another_version_is_refused() -> None:
    header, _, rest = tape().text.partition("\n")
    newer = json.dumps(json.loads(header) | {"version": 2})
    with pytest.raises(BadTrace, match="version is 2, not 1"):
        num_turns(f"{newer}\n{rest}")


def test_a_line_within_that_is_not_ours_is_named() -> None:
    lines = tape().text.splitlines(keepends=True)
    with pytest.raises(BadTrace, match="turn 2: a line is not JSON"):
        num_turns("".join([*lines[:2], "garbage\n", *lines[2:]]))


def test_the_header_tells_the_config() -> None:
    assert tape().reader().config == core_config()


def test_it_stops_at_its_limit_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    whole = io.StringIO()
    limit = len(tape().text) // 2
    with caplog.at_level(logging.WARNING):
        recorder = TraceRecorder(whole, core_config(), max_bytes=limit)
        for _ in range(100):
            recorder.observe((), [Claim(4)])
    text = whole.getvalue()
    assert len(text) <= limit < len(text) + 60
    assert num_turns(text) == text.count("\n") - 1
    (message,) = [record.message for record in caplog.records]
    assert message.startswith(f"the trace ends after {num_turns(text)} turns")


def test_a_full_disk_ends_the_trace_and_not_the_lane(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lane.events.jsonl").symlink_to("/dev/full")
    with trace_recorder(str(tmp_path), "lane", core_config()) as recorder:
        assert recorder is not None
        recorder.observe((), [Claim(4)])
    (message,) = [record.message for record in caplog.records]
    assert "No space left" in message


def test_into_a_directory_or_nowhere(tmp_path: Path) -> None:
    with trace_recorder("", "lane", core_config()) as recorder:
        assert recorder is None
    with trace_recorder(str(tmp_path / "new"), "lane", core_config()) as recorder:
        assert recorder is not None
        recorder.observe((), [Claim(4)])
        with open_trace(tmp_path / "new" / "lane.events.jsonl") as trace:
            assert [effects for _, effects in trace.turns()] == [(Claim(4),)]


def test_a_compressed_one_that_is_cut_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(tape().text.encode())[:-20])
    with pytest.raises(BadTrace), open_trace(path) as trace:
        list(trace.turns())
