"""Arguments, variables and help of every command."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from stepserve.cli import COMMANDS, main, parse
from stepserve.process.command_line import ALIASES
from stepserve.process.variables import KNOWN

# What must be given, by command.
NEEDED: dict[str, list[str]] = {
    "up": ["--model=m"],
    "scheduler": ["--model=m"],
    "worker": ["--model=m"],
    "generate": ["p"],
    "submit": ["p"],
    "attach": ["j"],
    "cancel": ["j"],
    "delete": ["j"],
    "get": ["j"],
    "batch": ["in", "out"],
    "keys add": ["file", "--tenant=t"],
    "keys list": ["file"],
    "keys remove": ["file", "key"],
    "replay": ["trace"],
}
# Fields whose alias is what users call them.
INNER = ("as_json", "every", "served_model")
TEXTS = (
    "",
    " x ",
    ",",
    "a,b",
    "[",
    "]",
    "{",
    '{"a": 1}',
    "[1]",
    '"q"',
    "'",
    "\\",
    "\\n",
    "\n",
    "null",
    "None",
    "true",
    "5",
    "1e9",
    "é\u2028",
    "-x",
    "%",
    "%s",
    "--no-chat",
)
SAMPLES: dict[Any, tuple[str, Any]] = {
    str: ("a:1", "a:1"),
    Path: ("a:1", Path("a:1")),
    int: ("2", 2),
    float: ("0.5", 0.5),
    bool: ("true", True),
    SecretStr: ("a:1", SecretStr("a:1")),
    list[str]: ('["a", "b"]', ["a", "b"]),
    list[int]: ("[5, 7]", [5, 7]),
    tuple[int, int]: ("[3, 4]", (3, 4)),
    tuple[float, float]: ("[0.5, 4]", (0.5, 4.0)),
    tuple[int, ...]: ("[3, 4, 5]", (3, 4, 5)),
}
# Texts that must be of a form.
FORMED = {
    "tenant_weights": "a=2,b=0.5",
    "sections": "steps,kernels",
    "limits": "steps=4,8b=90.5",
    "metrics_prefix": "vllm",
    "otlp_endpoint": "http://a:1",
}


def settings_class(name: str) -> type[BaseSettings]:
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: type[BaseSettings] = getattr(importlib.import_module(module), attribute)
    return found


def fields() -> list[tuple[str, str]]:
    """Return every field of every command."""
    return [(name, field) for name in COMMANDS for field in settings_class(name).model_fields]


def flag(field: str) -> str:
    return f"--{field.replace('_', '-')}" if len(field) > 1 else f"-{field}"


def some_value(annotation: Any) -> tuple[str, Any]:
    """Return a text for a field of this type, and the value that it stands for."""
    if annotation in SAMPLES:
        return SAMPLES[annotation]
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    if get_origin(annotation) is Literal:
        return kinds[-1], kinds[-1]
    return SAMPLES[kinds[0]]


def exit_status(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--help") == 0
    text = capsys.readouterr().out
    assert all(text.count(f"\n  {name:<15} ") == 1 for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 90
    assert exit_status() == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(name, "--help") == 0
    text = capsys.readouterr().out
    for field, info in settings_class(name).model_fields.items():
        is_positional = info.is_required() and field not in ("model", "tenant")
        name = flag(field)
        told = f"--{ALIASES.get(name[2:], '')}" if field in INNER else name
        shown = field.upper().replace("_", "-") if is_positional else told
        assert re.search(rf"(?<!\S){re.escape(shown)}[ ,\n]", text), field
    assert "None" not in text
    assert "\0" not in text


def test_options_of_one_kind_stand_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("generate", "--help") == 0
    usage, *_, sampling, job, service = capsys.readouterr().out.split("\n\n")
    assert usage == "usage: stepserve generate PROMPT [options]"
    assert sampling.startswith("sampling (")
    assert "--top-p " in sampling
    assert (job[:5], service[:9]) == ("job:\n", "service:\n")
    assert "--tenant " in job
    assert "--target " in service


@pytest.mark.parametrize(
    ("alias", "field", "value"),
    [
        ("--max-num-seqs", "max_batch_size", 8),
        ("--max-num-batched-tokens", "max_step_tokens", 512),
        ("--max-model-len", "max_context", 1024),
        ("--served-model-name", "model_name", "m2"),
        ("--gpu-memory-utilization", "memory_fraction", 0.5),
    ],
)
def test_options_have_the_names_that_vllm_gives_them(alias: str, field: str, value: object) -> None:
    for name in ("up", "scheduler", "worker"):
        if field in settings_class(name).model_fields:
            assert getattr(parse([name, "--model=m", f"{alias}={value}"]), field) == value
    assert field in settings_class("up").model_fields


def test_what_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("nonsense") == 2
    assert "no command 'nonsense'\n" in capsys.readouterr().err
    for argv in (["jobs", "--nonsense"], ["jobs", "--lim=3"], ["generate"], ["up"]):
        assert exit_status(*argv) == 2
    for argv in (["up", "--model=m", "--policy=lifo"], ["jobs", "--limit=0"]):
        assert exit_status(*argv) == 2
    assert "--limit: " in capsys.readouterr().err
    assert exit_status("up", "--model=m", "--port=65535", "--schedulers=2") == 2


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ("jbos", "no command 'jbos'; is it stepserve jobs?"),
        ("bench polcies", "no command 'bench polcies'; is it stepserve bench policies?"),
        ("bench nonsense", "no command 'bench nonsense'"),
        ("up --polcy=fcfs --model=m", "unrecognized arguments: --polcy=fcfs; is it --policy?"),
        ("up --nonsense", "unrecognized arguments: --nonsense"),
        ("generate --nonsense", "unrecognized arguments: --nonsense"),
        ("attach --ofset=3", "unrecognized arguments: --ofset=3; is it --offset?"),
        ("jobs --limit", "argument --limit: expected one argument"),
        ("generate", "the following arguments are required: PROMPT"),
        (
            "generate x --n=17",
            "--n: 16 independent outputs at most; for their tokens there is --max-tokens",
        ),
        (
            "generate x -n 128",
            "--n: 16 independent outputs at most; for their tokens there is --max-tokens",
        ),
        ("submit x --stop-token-ids=x", "--stop-token-ids: Input should be a valid integer"),
        ("jobs --limit=x", "--limit: Input should be a valid integer"),
    ],
)
def test_a_mistake_gives_a_line_and_where_help_is(
    argv: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(*argv.split()) == 2
    line, help_line = capsys.readouterr().err.splitlines()
    assert re.match(rf"stepserve( \w+)?: {re.escape(told)}", line)
    assert told.endswith("integer") or line.endswith(told)
    assert " --help lists the " in help_line


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--version") == 0
    assert capsys.readouterr().out == f"{version('stepserve')}\n"


def test_a_command_may_have_two_words() -> None:
    for name in (name for name in COMMANDS if " " in name):
        assert type(parse([*name.split(), *NEEDED.get(name, [])])) is settings_class(name)
    assert type(parse(["bench", "--num-jobs=3"])) is settings_class("bench")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_taken_as_they_stand(text: str) -> None:
    found: Any = parse(["generate", f"--stop={text}", f"--tenant={text}", "--stop=b", "--", text])
    assert (found.prompt, found.tenant, found.stop) == (text, text, [text, "b"])
    found = parse(["generate", "p", "--stop", " x", "--stop", ","])
    assert found.stop == [" x", ","]


@pytest.mark.parametrize(("name", "field"), fields())
def test_every_option_has_a_variable(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings_class(name)
    text, value = some_value(chosen.model_fields[field].annotation)
    if field in FORMED:
        text = value = FORMED[field]
    monkeypatch.setenv(f"{chosen.model_config['env_prefix']}{field.upper()}", text)
    needed = NEEDED.get(name, [])
    # What is on the command line comes before the variable.
    given = any(entry.startswith(f"{flag(field)}=") for entry in needed)
    positional = field in ("prompt", "job_id", "input", "output", "files", "file", "key_id")
    found = getattr(parse([name, *needed]), field)
    assert found == value or given or positional


def test_the_variables_that_are_known_are_those_of_the_commands() -> None:
    names = {"LOG_LEVEL"}
    for name, field in fields():
        prefix = settings_class(name).model_config["env_prefix"]
        names.add(f"{prefix}{field}".upper().removeprefix("STEPSERVE_"))
    assert names == KNOWN, "stepserve/process/variables.py lists them"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_variable_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, needed = settings_class(name), NEEDED.get(name, [])
    expected = parse([name, *needed])
    for field in chosen.model_fields:
        monkeypatch.setenv(f"{chosen.model_config['env_prefix']}{field.upper()}", "")
    assert parse([name, *needed]) == expected


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("STEPSERVE_MAX_BATCHSIZE", "STEPSERVE_MAX_BATCH_SIZE"),
        ("STEPSERVE_MODLE", "STEPSERVE_MODEL"),
        ("stepserve_polcy", "STEPSERVE_POLICY"),
        ("STEPSERVE_XYZZY", ""),
    ],
)
@pytest.mark.parametrize("name", ["up", "scheduler", "worker", "jobs"])
def test_a_mistyped_variable_is_named(
    name: str,
    variable: str,
    meant: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, "8")
    assert exit_status(name, *NEEDED.get(name, [])) == 2
    told = capsys.readouterr().err
    assert f"{variable} is no variable of this version" in told
    assert meant in told
    assert exit_status(name, "--help") == 0


@pytest.mark.parametrize(
    "variable",
    [
        "STEPSERVE_LOG_LEVEL",
        "STEPSERVE_BLOCK_SIZE",  # another command's
        "STEPSERVE_WORKER_PORT",
        "STEPSERVE_WORKER_PORT_50061_TCP_ADDR",
        "STEPSERVE_REDIS_SERVICE_HOST",
        "STEPSERVE_REDIS_SERVICE_PORT_REDIS",
        "STEPSERVER_FOO",
    ],
)
def test_what_is_no_mistake_is_let_pass(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:1")
    parse(["jobs"])


def test_a_refused_argument_is_quoted_without_its_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status("scheduler", "--model=m", "--redis-ulr=redis://:secret@host") == 2
    told = capsys.readouterr().err
    assert "redis://:***@host" in told
    assert "secret" not in told


@pytest.mark.parametrize("name", COMMANDS)
def test_switches_go_both_ways(name: str) -> None:
    needed = NEEDED.get(name, [])
    switches = [f for f, i in settings_class(name).model_fields.items() if i.annotation is bool]
    for field in switches:
        on, off = flag(field), flag(field).replace("--", "--no-", 1)
        assert getattr(parse([name, *needed, on]), field) is True
        assert getattr(parse([name, *needed, off]), field) is False


def test_a_client_command_needs_neither_redis_nor_torch() -> None:
    heavy = ["torch", "redis", "transformers", "tokenizers", "numpy", "scipy", "worker_svc"]
    services = ("scheduler", "worker", "bench", "chaos", "replay")
    clients = [
        [name, *NEEDED.get(name, [])] for name in COMMANDS if name.split()[0] not in services
    ]
    script = f"""
import sys
from stepserve.cli import COMMANDS, parse
for argv in {clients}:
    parse(argv)
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stepserve", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{version('stepserve')}\n"


def test_an_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stepserve", "batch", "/nonexistent/in", "out", "--model=m"])
    assert main() == 1
    assert capsys.readouterr().err == "stepserve: /nonexistent/in: No such file or directory\n"


UNWINDS = """
import asyncio, os, signal, sys
from types import SimpleNamespace
from stepserve import cli

async def is_told():
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(60)

async def all_of_it():
    await asyncio.gather(is_told(), asyncio.sleep(60))

cli.parse = lambda _: SimpleNamespace(run=lambda: asyncio.run(all_of_it()))
sys.exit(cli.main())
"""


def test_a_signal_in_the_middle_of_a_task_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNWINDS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (143, "")
