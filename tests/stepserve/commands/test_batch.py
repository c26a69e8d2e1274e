"""``stepserve batch --target``, against the real api; the test plays the lane."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from scheduler_svc.queue import QueueLimits
from scheduler_svc.text.model_card import ModelCard
from stepserve.batch.file import BatchFailed, Progress, parse_lines
from stepserve.cli import parse
from stepserve.client.aio import AsyncClient
from stepserve.protocol import inference_rpc as rpc
from stepserve.protocol import inference_wire as wire
from stepserve.protocol.job import Finish
from tests.scheduler_svc.api.served import Served, serving
from tests.stepserve.commands.conftest import command


@asynccontextmanager
async def lane(served: Served, text: str = "ab") -> AsyncIterator[list[str]]:
    """Give every output of every job the same text; yields the ids of the jobs so far."""
    job_ids: list[str] = []

    async def play() -> None:
        while True:
            spec = (await served.lane.claim()).spec
            job_ids.append(spec.job_id)
            for index in range(spec.sampling.n):
                await served.lane.commit(spec.job_id, served.ids(text), Finish("length"), index)

    task = asyncio.create_task(play())
    try:
        yield job_ids
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Files:
    """A batch's input and output."""

    def __init__(self, directory: Path) -> None:
        self.input = directory / "in.jsonl"
        self.output = directory / "out.jsonl"
        self.partial = directory / "out.jsonl.partial"

    def write(self, *lines: dict[str, Any] | str) -> None:
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.input.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    async def run(self, target: str) -> int:
        return await command("batch", self.input, self.output, f"--target={target}")

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.read_bytes().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_results_are_in_input_order(
    served: Served, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write(
        {"prompt": "one", "arrival_s": 0.2},
        "",
        {"prompt": "two", "sampling": {"n": 2}},
        "nonsense",
        {"prompt": "three", "sampling": {"temperature": -1}},
    )
    async with lane(served) as job_ids:
        assert await files.run(served.address) == 1, "lines failed"
    one, two, bad, refused = files.results()
    assert [two["job_id"], one["job_id"]] == job_ids, "arrival_s was ignored"
    assert (one["text"], one["token_ids"], one["finish_reason"]) == (
        "ab",
        served.ids("ab"),
        "length",
    )
    assert one["usage"]["completion_tokens"] == len(served.ids("ab"))
    assert 0 <= one["ttft_s"] <= one["latency_s"]
    assert [output["text"] for output in two["outputs"]] == ["ab", "ab"]
    assert "JSON" in bad["error"]["message"]
    assert refused["error"]["code"] == "INVALID_ARGUMENT"
    assert [bad["error"]["line"], refused["error"]["line"]] == [4, 5]
    shown = capsys.readouterr()
    assert "stepserve: line 4: INVALID_ARGUMENT: not JSON" in shown.err
    assert "stepserve: line 5: INVALID_ARGUMENT: sampling.temperature: " in shown.err
    figures = json.loads(shown.out.splitlines()[-1])
    assert (figures["jobs"], figures["failed"], figures["earlier"]) == (4, 2, 0)
    assert figures["output_tokens"] == 3 * len(served.ids("ab"))
    assert figures["requests_per_s"] > 0


async def test_lines_with_one_key_are_one_job(served: Served, files: Files) -> None:
    files.write(*[{"prompt": "one", "idempotency_key": "k"}] * 3)
    async with lane(served) as job_ids:
        assert await files.run(served.address) == 0
    assert [result["text"] for result in files.results()] == ["ab"] * 3
    assert {result["job_id"] for result in files.results()} == set(job_ids)
    assert len(job_ids) == 1


@pytest.mark.parametrize("content", ["", "\n \n"])
async def test_an_empty_input_has_an_empty_output(
    content: str, served: Served, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.input.write_text(content)
    assert await files.run(served.address) == 0
    # No service is started where there is nothing to run.
    assert await command("batch", files.input, files.output, "--model=/nonexistent") == 0
    assert files.output.read_bytes() == b""
    for line in capsys.readouterr().out.splitlines():
        figures = json.loads(line)
        assert (figures["jobs"], figures["requests_per_s"], figures["latency_s_p50"]) == (
            0,
            None,
            None,
        )


async def test_what_has_ended_is_not_run_again(
    served: Served, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write({"prompt": "one"}, {"prompt": "two"})
    digest, _ = parse_lines(files.input.read_bytes(), served.card.name)
    progress = Progress(files.output, digest)
    progress.add(0, {"error": {"message": "of the run before"}})
    progress.close()
    async with lane(served) as job_ids:
        assert await files.run(served.address) == 1, "a line had failed before"
    first, second = files.results()
    assert first == {"error": {"message": "of the run before"}}
    assert [second["job_id"]] == job_ids
    figures = json.loads(capsys.readouterr().out)
    assert (figures["jobs"], figures["failed"], figures["earlier"]) == (2, 1, 1)
    assert figures["output_tokens"] == len(served.ids("ab"))


async def test_jobs_that_ended_meanwhile_are_in_no_rate(
    served: Served, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run before sent them, and was killed before it saw their ends."""
    files.write({"prompt": "one"}, {"prompt": "two"})
    _, lines = parse_lines(files.input.read_bytes(), served.card.name)
    async with lane(served), AsyncClient(served.address) as client:
        before = await client.complete(lines[0].request)
        assert await files.run(served.address) == 0
    assert files.results()[0]["job_id"] == before.job_id
    shown = capsys.readouterr()
    figures = json.loads(shown.out)
    assert (figures["jobs"], figures["earlier"], figures["joined"]) == (2, 0, 1)
    assert figures["output_tokens"] == 2 * len(served.ids("ab"))
    per_s = len(served.ids("ab")) / figures["wall_s"]
    assert figures["output_tokens_per_s"] == pytest.approx(per_s, rel=0.1)
    assert "1 had been submitted before and were followed to their end (joined)" in shown.err


async def test_openais_lines_have_their_results_in_its_form(served: Served, files: Files) -> None:
    body = {"model": served.card.name, "messages": [{"role": "user", "content": "hi"}]}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    files.write(asked, {**asked, "custom_id": "b", "body": {**body, "model": "other"}})
    async with lane(served):
        assert await files.run(served.address) == 1
    first, second = files.results()
    assert (first["custom_id"], first["error"]) == ("a", None)
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "ab"
    assert (second["custom_id"], second["response"]["status_code"]) == ("b", 404)


async def test_results_of_another_model_are_not_taken_over(served: Served, files: Files) -> None:
    files.write({"prompt": "one"})
    digest, _ = parse_lines(files.input.read_bytes(), "another")
    progress = Progress(files.output, digest)
    progress.add(0, {"error": {"message": "of another model"}})
    progress.close()
    async with lane(served):
        assert await files.run(served.address) == 0
    assert files.results()[0]["text"] == "ab"


async def test_a_full_queue_is_waited_for(redis_url: str, card: ModelCard, files: Files) -> None:
    files.write(*[{"prompt": "one"}] * 3)
    limits = QueueLimits(max_queued_jobs=1)
    async with serving(redis_url, card, limits=limits) as served, lane(served) as job_ids:
        assert await files.run(served.address) == 0
    assert sorted(result["job_id"] for result in files.results()) == sorted(job_ids)
    assert len(job_ids) == 3


class Failing(rpc.InferenceServicer):
    """A service that ends every job's call with the status that its prompt names."""

    async def ListModels(self, _request: Any, _context: Any) -> wire.ListModelsResponse:
        return wire.ListModelsResponse()

    async def Generate(self, request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode[request.prompt], "field: why")


async def test_a_failed_call_is_that_lines_error(files: Files) -> None:
    codes = ["INTERNAL", "UNKNOWN", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND"]
    files.write(*({"prompt": code} for code in codes))
    server = grpc.aio.server()
    rpc.add_InferenceServicer_to_server(Failing(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        assert await files.run(address) == 1
    finally:
        await server.stop(None)
    assert [result["error"]["code"] for result in files.results()] == codes
    assert all("why" in result["error"]["message"] for result in files.results())


async def test_what_cannot_be_written_is_not_run(
    served: Served, files: Files, tmp_path: Path
) -> None:
    files.write({"prompt": "one"})
    target = f"--target={served.address}"
    with pytest.raises(BatchFailed, match="is not a file"):
        await command("batch", files.input, tmp_path, target)
    with pytest.raises(BatchFailed, match="would be overwritten"):
        await command("batch", files.input, files.input, target)
    with pytest.raises(BatchFailed, match="No such file"):
        await command("batch", tmp_path / "absent", files.output, target)
    assert await served.queue.jobs() == []


def test_a_flag_hides_the_other_ones_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def where(*flags: str) -> tuple[str, list[str]]:
        batch: Any = parse(["batch", "in", "out", *flags])
        return batch.target, batch.model

    monkeypatch.setenv("STEPSERVE_MODEL", "m")
    assert where() == ("", ["m"])
    assert where("--target=t:1") == ("t:1", [])
    monkeypatch.setenv("STEPSERVE_TARGET", "u:1")
    assert where("--model=n") == ("", ["n"])
    assert where("--target=t:1") == ("t:1", [])
    for flags in ([], ["--target=t:1", "--model=n"]):
        with pytest.raises(BatchFailed, match="--target"):
            parse(["batch", "in", "out", *flags]).run()
