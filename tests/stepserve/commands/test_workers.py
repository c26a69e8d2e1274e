"""What ``stepserve workers`` prints, and which model other commands ask."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from scheduler_svc.queue import Sighting
from stepserve.commands.workers import ago, cells, state_of
from stepserve.protocol.errors import NotFound
from stepserve.protocol.worker_status import WorkerStatus
from tests.scheduler_svc.api.served import Served
from tests.stepserve.commands.conftest import command

NOW_S = 1_700_000_000.0
FREE = WorkerStatus(
    "10.0.0.1:50061", "m", "i", "f", "float32", "cpu", "0.1.0", 257, 512, 16, 64, 8, 32,
    seen_s=NOW_S, note="serves m, not n",
)  # fmt: skip
DRIVEN = WorkerStatus(
    "10.0.0.2:50061", "m", "i", "f", "bfloat16", "NVIDIA H200", "0.1.0", 257, 512, 16, 64, 8, 32,
    4, 2, "pod-1", NOW_S - 7200, NOW_S - 2, "", 3, 1, 40, 100, 0.0123, 0.0456,
)  # fmt: skip


def test_a_row_says_what_it_can_hold_and_who_drives_it() -> None:
    assert cells(DRIVEN, NOW_S) == [
        "10.0.0.2:50061", "m", "driven", "NVIDIA H200 bfloat16", "4x2", "512", "40/64 x 16",
        "3/8 +1", "12.3/45.6 ms", "pod-1", "2 h", "2 s", "",
    ]  # fmt: skip
    assert cells(FREE, NOW_S) == [
        "10.0.0.1:50061", "m", "free", "cpu float32", "1x1", "512", "64 x 16", "8", "", "", "",
        "now", "serves m, not n",
    ]  # fmt: skip


def test_silence_is_told_whoever_drove_it() -> None:
    assert state_of(DRIVEN, NOW_S) == "driven"
    assert state_of(DRIVEN, NOW_S + 9) == "silent"
    assert state_of(FREE, NOW_S + 9) == "free"


@pytest.mark.parametrize(
    ("duration_s", "told"),
    [(-3, "now"), (0.4, "now"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (1e6, "11 d")],
)
def test_times_are_in_the_largest_unit_that_they_fill(duration_s: float, told: str) -> None:
    assert ago(duration_s) == told


async def test_workers_are_listed_of_all_models_or_of_one(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    model, target = f"m-{time.monotonic_ns()}", f"--target={served.address}"
    one = WorkerStatus("w:1", model, driver="me", driven_since_s=5.0, step_p50_s=0.5)
    others = WorkerStatus("[w]:2", f"{model}/other", note="[red] is text")
    await served.queue.registry().tell("me", [Sighting(one, 0.0), Sighting(others, 0.0)])
    assert await command("workers", target) == 0
    shown = capsys.readouterr().out
    assert "w:1" in shown
    assert "[red] is text" in shown
    assert await command("workers", target, "--json", f"--model={model}") == 0
    [told] = map(json.loads, capsys.readouterr().out.splitlines())
    assert (told["worker_id"], told["driven_since_s"], told["step_p50_s"]) == ("w:1", 5.0, 0.5)
    assert await command("workers", target, "--model=none") == 0
    assert "no worker of none answers any scheduler" in capsys.readouterr().err


async def test_commands_ask_the_model_that_is_named_and_not_that_of_the_services_variable(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"--target={served.address}"
    monkeypatch.setenv("STEPSERVE_MODEL", "/where/the/service/finds/it")
    assert await command("submit", "a", target, f"--model={served.card.name}") == 0
    job_id = capsys.readouterr().out.strip()
    assert (await served.queue.job(job_id)) is not None
    assert await command("submit", "a", target) == 0
    for argv in (["submit", "a"], ["generate", "a"], ["jobs"]):
        with pytest.raises(NotFound, match=f"'none' is not served here; '{served.card.name}' is"):
            await asyncio.wait_for(command(*argv, target, "--model=none"), 20)
