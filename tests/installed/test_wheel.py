"""The built wheel in a user's environment, beside folders that are called as ours were."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stepserve_bench.demo.storyteller import MODEL_DIR
from tests.installed.environment import USERS_FOLDERS, Environment

ROOMS = {"kvstore", "scheduler_svc", "stepserve", "stepserve_bench", "worker_svc"}

IMPORT_ALL = """
import sys
import stepserve
for name in stepserve.__all__:
    getattr(stepserve, name)
print(stepserve.__version__, *sorted({name.partition(".")[0] for name in sys.modules}))
"""

# Where something may be left out, a name that is misspelt would be Any and so pass.
CLIENT = """
from collections.abc import Sequence
from typing import assert_type

from stepserve import (
    Client, Completion, Finish, JobInfo, Request, SamplingParams, StreamEvent, Usage, __version__,
)

def tell(client: Client) -> str:
    sampling = SamplingParams(max_tokens=4, temperature=0.0)
    job_id = client.submit(prompt="Once", sampling=sampling)
    for event in client.attach(job_id):
        assert_type(event, StreamEvent)
        assert_type(event.token_ids, Sequence[int])
        assert_type(event.finish, Finish | None)
        assert_type(event.usage, Usage | None)
    assert_type(client.get(job_id), JobInfo)
    assert_type(client.complete(Request(prompt="Once")), Completion)
    return assert_type(job_id, str) + assert_type(__version__, str)
"""
WRONG_CLIENT = """
from stepserve import Client, SamplingParams

sampling = SamplingParams(max_tokens="4")
number: int = Client("localhost:1").submit(prompt="Once")
"""

# What says that it lacks something, by the extra that brings it.
LACKING = {
    "local": ["stepserve up --model=m", "stepserve batch in.jsonl out.jsonl --model=m"],
    "scheduler": [
        "stepserve scheduler --model=m --redis-url=redis://127.0.0.1:1/0",
        "python -P -m scheduler_svc --model=m --redis-url=redis://127.0.0.1:1/0",
    ],
    "worker": ["stepserve worker --model=m --port=0", "python -P -m worker_svc --model=m --port=0"],
    "bench": [
        "stepserve bench",
        "stepserve bench gpu",
        "stepserve bench path",
        "stepserve simulate --jobs=9 --plots=plots",
    ],
}


def test_what_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == ROOMS
    assert {
        "stepserve/py.typed",
        "stepserve/v1/inference_pb2.pyi",
        "stepserve/v1/worker_pb2.pyi",
        "scheduler_svc/http/page/index.html",
        "scheduler_svc/http/page/app.js",
        "scheduler_svc/queue/queue.lua",
    } <= names
    model = {f"stepserve_bench/demo/storyteller/model/{path.name}" for path in MODEL_DIR.iterdir()}
    assert len(model) > 4
    assert model <= names
    assert not [name for name in names if "test" in name.rpartition("/")[2] or "/tests/" in name]


def test_the_users_folders_would_break_what_imports_them(bare: Environment) -> None:
    """Or the tests below would prove nothing."""
    for name in USERS_FOLDERS:
        assert "of the user" in bare.run("python", "-c", f"import {name}").stderr


def test_the_client_imports_nothing_but_itself(bare: Environment) -> None:
    done = bare.run("python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    version, *loaded = done.stdout.split()
    assert version == bare.run("stepserve", "--version").stdout.strip()
    assert ROOMS & {*loaded} == {"stepserve"}


def test_the_clients_commands_need_no_extra(bare: Environment) -> None:
    (bare.folder / "in.jsonl").write_text('{"prompt": "Once"}\n')
    for command in ("jobs", "generate Once", "batch in.jsonl out.jsonl"):
        done = bare.run("stepserve", *command.split(), "--help")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("extra", "command"),
    [(extra, command) for extra, commands in LACKING.items() for command in commands],
)
def test_what_is_lacking_is_said_in_one_line(bare: Environment, extra: str, command: str) -> None:
    (bare.folder / "in.jsonl").write_text('{"prompt": "Once"}\n')
    done = bare.run(*command.split())
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.endswith(f": pip install 'stepserve[{extra}]'")


@pytest.mark.long
@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("scheduler", "scheduler_svc.server"),
        ("worker", "worker_svc.server, worker_svc.assembly"),
        ("traces", "scheduler_svc.spans.tracing"),
    ],
)
def test_an_extra_brings_all_that_its_service_imports(
    installed: Callable[[str], Environment], extra: str, modules: str
) -> None:
    done = installed(extra).run("python", "-P", "-c", f"import {modules}")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_client_is_typed(bare: Environment, tmp_path: Path) -> None:
    client, wrong = tmp_path / "client.py", tmp_path / "wrong.py"
    client.write_text(CLIENT)
    wrong.write_text(WRONG_CLIENT)
    options = ["--strict", "--config-file=", f"--python-executable={bare.python}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, f"--cache-dir={tmp_path}/cache", client, wrong],
        cwd=tmp_path,
        env=bare.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line.partition(" error: ") for line in done.stdout.splitlines() if " error: " in line]
    assert [where for where, *_ in found] == ["wrong.py:4:", "wrong.py:5:"], done.stdout


@pytest.mark.long
def test_a_model_is_served(installed: Callable[[str], Environment]) -> None:
    """By ``stepserve up`` in the user's folder, to a client that runs there too."""
    environment = installed("local")
    command = [environment.bin / "stepserve", "up", "--port=0", f"--model={MODEL_DIR}"]
    with subprocess.Popen(
        command,
        cwd=environment.folder,
        env=environment.variables(),
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            word, address, _ = service.stdout.readline().split(maxsplit=2)
            assert word == "ready"
            target = address.removeprefix("grpc=")
            script = (
                "import stepserve; print(len(stepserve.Client(target).complete(prompt='Once',"
                "sampling=stepserve.SamplingParams(max_tokens=5)).outputs[0].token_ids))"
            )
            done = environment.run("python", "-c", f"target = {target!r}; {script}")
            assert done.stdout == "5\n", done.stderr
            options = ("--max-tokens=5", f"--target={target}")
            done = environment.run("stepserve", "generate", "Once", *options)
            assert done.returncode == 0, done.stderr
        finally:
            service.terminate()
    assert service.returncode == 0
