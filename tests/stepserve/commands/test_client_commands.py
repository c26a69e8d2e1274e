"""What the client commands print, against the real api; the test plays the lane."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime

import pytest

from stepserve.protocol.errors import InvalidRequest, NotFound
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import Served
from tests.stepserve.commands.conftest import command

ODD = "naïve 中 🙂 end"
LENGTH = Finish("length")


async def play(served: Served, texts: Sequence[str], finish: Finish = LENGTH) -> str:
    """Claim a job and give each of its outputs a text; return its id."""
    job_id = (await served.lane.claim()).spec.job_id
    for index, text in enumerate(texts):
        await served.lane.commit(job_id, served.ids(text), finish, index)
    return job_id


async def run(served: Served, texts: Sequence[str], *argv: str) -> tuple[int, str]:
    """Run a command that submits a job, and the job; return its status and the job's id."""
    status, job_id = await asyncio.gather(
        command(*argv, f"--target={served.address}"), play(served, texts)
    )
    return status, job_id


async def test_one_output_is_plain_text(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    status, job_id = await run(served, ["ab\n {"], "generate", "hello")
    shown = capsys.readouterr()
    assert (status, shown.out) == (0, "ab\n {")
    assert "[0: length]" in shown.err
    assert f"[{job_id}: " in shown.err
    assert await command("attach", job_id, f"--target={served.address}") == 0
    assert capsys.readouterr().out == "ab\n {"


async def test_several_outputs_are_json_lines(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    status, job_id = await run(served, ["ab", "cd"], "generate", "hello", "-n=2")
    assert status == 0
    for _ in range(2):
        shown = capsys.readouterr().out.splitlines()
        texts = {0: "", 1: ""}
        for piece in map(json.loads, shown):
            texts[piece["index"]] += piece["text"]
        assert texts == {0: "ab", 1: "cd"}
        await command("attach", job_id, f"--target={served.address}")


async def test_a_failed_job_is_a_failed_command(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Finish("error", "the worker broke")
    status, _ = await asyncio.gather(
        command("generate", "hello", f"--target={served.address}"), play(served, [""], failed)
    )
    assert status == 1
    assert "[0: error: the worker broke]" in capsys.readouterr().err


async def test_a_prompt_comes_from_standard_input(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"--target={served.address}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("aé\n".encode())))
    await command("submit", "-", "--stop=,", "--tenant=me", "--priority=2", target)
    spec = (await served.lane.claim()).spec
    assert list(spec.prompt_token_ids)[-len(served.ids("aé\n")) :] == served.ids("aé\n")
    assert list(spec.sampling.stop) == [","]
    assert (spec.tenant, spec.priority) == ("me", 2)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff")))
    with pytest.raises(InvalidRequest, match="prompt: is not UTF-8 at byte 1"):
        await command("generate", "-", target)


async def test_jobs_are_submitted_listed_and_cancelled(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"--target={served.address}"
    ids = []
    for tenant in ("a", "b"):
        assert await command("submit", "hello", f"--tenant={tenant}", target) == 0
        ids.append(capsys.readouterr().out.strip())
    assert await command("cancel", ids[0], target) == 0
    assert capsys.readouterr().out == f"{ids[0]} ended: cancelled\n"
    assert await command("jobs", target) == 0
    head, *rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert head == ["job", "state", "arrived", "prompt", "output", "ended", "tenant", "note"]
    assert [(row[0], row[1]) for row in rows] == [(ids[1], "queued"), (ids[0], "ended")]
    assert rows[1][-2:] == ["cancelled", "a"]
    datetime.strptime(" ".join(rows[0][2:4]), "%Y-%m-%d %H:%M:%S")
    for option, expected in (("--state=ended", ids[:1]), ("--tenant=b", ids[1:])):
        assert await command("jobs", option, target) == 0
        shown = capsys.readouterr().out.splitlines()[1:]
        assert [row.split()[0] for row in shown] == expected
    with pytest.raises(NotFound):
        await command("attach", "nonsense", target)


@pytest.mark.parametrize(
    ("encoding", "text"), [("ascii", "na?ve ? ? end"), ("latin-1", "naïve ? ? end")]
)
@pytest.mark.parametrize("name", ["generate", "attach"])
async def test_what_standard_output_cannot_encode_is_replaced(
    served: Served, name: str, encoding: str, text: str
) -> None:
    """In a process of its own: the encoding is the terminal's, or PYTHONIOENCODING's."""
    asked = "hello"
    if name == "attach":
        _, asked = await run(served, [ODD], "submit", "hello")
    done = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stepserve.cli",
        name,
        asked,
        f"--target={served.address}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    if name == "generate":
        await play(served, [ODD])
    out, errors = await done.communicate()
    assert (done.returncode, out.decode(encoding)) == (0, text), errors
    assert b"[0: length]" in errors


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
async def test_jobs_are_listed_whatever_their_tenants_are_called(
    served: Served, encoding: str
) -> None:
    await run(served, ["ab"], "submit", "hello", f"--tenant=[/x] {ODD}")
    done = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stepserve.cli",
        "jobs",
        f"--target={served.address}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    out, errors = await done.communicate()
    assert done.returncode == 0, errors
    assert "[/x] na" in out.decode(encoding)
    assert "? ? end" in out.decode(encoding)
