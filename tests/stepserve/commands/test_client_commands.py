"""What the client commands print, against the real api; the test plays the lane."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

import pytest

from stepserve.client.errors import TimedOut
from stepserve.process.command_line import flag
from stepserve.protocol.errors import InvalidRequest, NotFound
from stepserve.protocol.job import Finish
from stepserve.protocol.sampling import SamplingParams
from stepserve.protocol.step import TokenLogprobs
from stepserve.protocol.structured import StructuredOutputs
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


async def test_several_outputs_are_shown_one_after_another(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"--target={served.address}"
    status, job_id = await run(served, ["ab", "cd"], "generate", "hello", "-n=2")
    shown = capsys.readouterr()
    assert (status, sorted(shown.out.split("--- "))) == (
        0,
        ["", "output 0: length ---\nab\n", "output 1: length ---\ncd\n"],
    )
    for name in ("attach", "get"):
        assert await command(name, job_id, target) == 0
        assert "--- output 1: length ---\ncd\n" in capsys.readouterr().out


async def test_json_tells_everything(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"--target={served.address}"
    options = ("-n=2", "--json", "--logprobs=0", "--seed=5")

    async def lane() -> str:
        job_id = (await served.lane.claim()).spec.job_id
        logprobs = [TokenLogprobs(-1.0)] * len(served.ids("ab"))
        for index in range(2):
            await served.lane.commit(job_id, served.ids("ab"), LENGTH, index, logprobs)
        return job_id

    _, job_id = await asyncio.gather(command("generate", "hello", target, *options), lane())
    first, *events = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"job_id": job_id, "index": 0, "offset": 0, "token_ids": [], "text": ""}
    assert {(event["index"], event["text"]) for event in events} == {(0, "ab"), (1, "ab")}
    assert events[0]["logprobs"][0] == {"logprob": -1.0, "top": []}
    assert events[-1]["usage"]["completion_tokens"] == 2 * len(served.ids("ab"))
    assert await command("get", job_id, target, "--json") == 0
    whole = json.loads(capsys.readouterr().out)
    assert [output["text"] for output in whole["outputs"]] == ["ab", "ab"]
    assert (whole["state"], whole["sampling"]["seed"]) == ("ended", 5)
    assert await command("jobs", target, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [job["job_id"] for job in listed["jobs"]] == [job_id]
    assert await command("cancel", job_id, target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "ended"
    assert await command("delete", job_id, target, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"job_id": job_id, "deleted": True}
    assert await command("submit", "hello", target, "--json") == 0
    assert json.loads(capsys.readouterr().out)["job_id"]


async def test_jobs_come_by_pages_and_it_is_said_that_there_are_more(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"--target={served.address}"
    ids = []
    for _ in range(5):
        await command("submit", "hello", target)
        ids.append(capsys.readouterr().out.strip())

    async def listed(*options: str) -> tuple[list[str], str]:
        assert await command("jobs", "--limit=2", target, *options) == 0
        shown = capsys.readouterr()
        rows = [row.split()[0] for row in shown.out.splitlines()]
        return [row for row in rows if row != "job"], shown.err

    first, told = await listed()
    assert first == ids[:2:-1]
    second, told = await listed(*told.split()[-2:])
    assert (second, "there are more" in told) == (ids[2:0:-1], True)
    assert await listed("--all") == (ids[::-1], "")


async def test_what_is_interrupted_says_how_to_come_back(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, as a person interrupts it."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stepserve", "generate", "hello", f"--target={served.address}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    job_id = (await served.lane.claim()).spec.job_id
    ids = served.ids("a dog")
    await served.lane.commit(job_id, ids)
    assert started.stdout is not None
    assert await started.stdout.readexactly(5) == b"a dog"
    started.send_signal(signal.SIGINT)
    _, errors = await started.communicate()
    assert started.returncode == 130
    told = errors.decode()
    assert f"job {job_id} goes on without you" in told
    [line] = [line.strip() for line in told.splitlines() if "shows the rest" in line]
    asked = line.removesuffix("shows the rest").split()[1:]
    assert asked[-2:] == ["--offset", str(len(ids))]
    await served.lane.commit(job_id, served.ids(" ran"), LENGTH)
    assert await command(*asked) == 0
    assert capsys.readouterr().out == " ran"
    assert f"stepserve cancel {job_id} --target {served.address} " in told


async def test_every_sampling_option_reaches_the_job(served: Served) -> None:
    options = {
        "max_tokens": 7, "temperature": 0.5, "top_p": 0.5, "top_k": 9, "min_p": 0.25, "seed": 3,
        "ignore_eos": True, "presence_penalty": 0.5, "frequency_penalty": -0.5,
        "repetition_penalty": 1.5, "logprobs": 2, "n": 2, "min_tokens": 3,
        "prompt_logprobs": 1,
    }  # fmt: skip
    flags = [flag(name, value) if name != "n" else "-n=2" for name, value in options.items()]
    lists = [
        "--stop=x",
        "--stop=y",
        "--stop-token-ids=5,7",
        "--logit-bias=5=1",
        "--logit-bias=7=-2",
    ]
    await command("submit", "hello", *flags, *lists, f"--target={served.address}")
    chosen = (await served.lane.claim()).spec.sampling
    assert {name: getattr(chosen, name) for name in options} == options
    assert (chosen.stop, chosen.stop_token_ids) == (("x", "y"), (5, 7))
    assert chosen.logit_bias == ((5, 1.0), (7, -2.0))
    structured = '--structured-outputs={"json": {"type": "object"}}'
    target = f"--target={served.address}"
    await command("submit", "hello", "--stop-token-ids=5", structured, target)
    chosen = (await served.lane.claim()).spec.sampling
    assert chosen.structured_outputs == StructuredOutputs(json='{"type":"object"}')
    for odd in ('{"jsn": {}}', "{", "[]"):
        with pytest.raises(InvalidRequest, match=r"^--structured-outputs"):
            await command("submit", "hello", f"--structured-outputs={odd}", target)
    others = {"stop", "stop_token_ids", "logit_bias", "structured_outputs"}
    assert {*others, *options} == {field.name for field in fields(SamplingParams)}
    with pytest.raises(InvalidRequest, match="--logit-bias: 'x' is not TOKEN_ID=BIAS"):
        await command("submit", "hello", "--logit-bias=x", f"--target={served.address}")


async def test_a_chat_remembers_what_was_said(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "hi\n\nand then\n/clear\nagain\n/exit\nnever"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # not in this thread
    talking = asyncio.create_task(
        command("chat", "--system=Be kind.", "--max-tokens=9", f"--target={served.address}")
    )
    assert served.card.tokenizer is not None
    prompts = []
    for answer in ("one", "two", "three"):
        spec = (await served.lane.claim()).spec
        prompts.append(served.card.tokenizer.decode(spec.prompt_token_ids))
        assert spec.cancel_on_disconnect
        await served.lane.commit(spec.job_id, served.ids(answer), LENGTH)
    assert await talking == 0
    # Of the roles' tokens only the system's has a text here.
    told = ["hi", "hioneand then", "again"]
    assert prompts == [f"<|system|>Be kind.{text}" for text in told]
    assert capsys.readouterr().out.split() == ["one", "two", "three"]


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
    with pytest.raises(TimedOut, match=f"job {ids[1]} has not ended in 0.1 s; it goes on"):
        await command("get", ids[1], "--timeout-s=0.1", target)
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
