"""What can be seen to be in the way is said before ``stepserve up`` starts anything."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from scheduler_svc.queue import embedded
from stepserve.cli import parse
from stepserve.local import processes
from stepserve.protocol.errors import StepserveError
from stepserve_bench.demo.storyteller import MODEL_DIR

CONFIG = json.loads((MODEL_DIR / "config.json").read_text())


@pytest.fixture(autouse=True)
def _starts_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(embedded.EmbeddedRedis, "start", refuse)
    monkeypatch.setattr(processes.Supervisor, "start", refuse)
    monkeypatch.setattr(processes, "PORT_PATIENCE_S", 0.0)
    monkeypatch.chdir(tmp_path)


def refusal(*options: str, model: str | Path = MODEL_DIR) -> str:
    with pytest.raises(StepserveError) as caught:
        parse(["up", f"--model={model}", "--port=0", *options]).run()
    return str(caught.value)


def checkpoint(directory: Path, config: Any, *files: str) -> Path:
    """Write a directory with a config.json, of any content, and empty files."""
    directory.mkdir()
    text = config if isinstance(config, str) else json.dumps(config)
    (directory / "config.json").write_text(text)
    for name in files:
        (directory / name).touch()
    return directory


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(model="/nonexistent/m") == "/nonexistent/m: no such directory"
    assert refusal(model="m") == f"m: no such directory in {tmp_path}; a hub id is OWNER/NAME"
    (tmp_path / "file").touch()
    assert "file is a file: a checkpoint is a directory or a hub id" in refusal(model="file")
    (tmp_path / "empty").mkdir()
    assert refusal(model="empty") == "empty is no checkpoint: it has no config.json"


@pytest.mark.parametrize(
    ("config", "files", "told"),
    [
        ("{", ("model.safetensors",), "config.json: Expecting property name"),
        ({**CONFIG, "architectures": ["GPT2LMHeadModel"]}, (), "GPT2LMHeadModel is not supported"),
        ({**CONFIG, "vocab_size": -1}, ("model.safetensors",), "vocab_size is -1"),
        (CONFIG, (), "has neither model.safetensors nor model.safetensors.index.json"),
        (CONFIG, ("pytorch_model.bin",), "has its weights in pytorch_model.bin: no pickle is"),
    ],
)
def test_a_model_that_can_t_be_served(
    config: Any, files: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    assert told in refusal(model=checkpoint(tmp_path / "m", config, *files))


def test_the_second_model_is_looked_at_as_well() -> None:
    assert refusal("--model=b=/nonexistent") == "/nonexistent: no such directory"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data-dir=file"], "--data-dir: file is a file, not a directory"),
        (["--record-dir=file/x"], "--record-dir: file/x can't be made: Not a directory"),
        (["--record-events-dir=/proc/x"], "--record-events-dir: /proc/x can't be made: "),
        (["--record-stages-dir=file"], "--record-stages-dir: file is a file"),
        (["--redis-url=nonsense"], "the address of Redis is no redis://HOST:PORT/DB"),
        (["--redis-url-file=none"], "the address of Redis in none can't be read: No such file"),
        (["--api-keys-file=none"], "the API keys in none can't be read: No such file"),
        (["--host=0.0.0.0"], "others can reach 0.0.0.0"),
        (["--host=192.0.2.1", "--port=5"], "can't serve on 192.0.2.1:5: Cannot assign requested"),
    ],
)
def test_what_else_is_in_the_way(options: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusal(*options)
    assert told in said
    assert "while attempting" not in said


def test_a_port_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("port", "http-port", "metrics-port"):
            told = refusal(f"--{option}={port}")
            assert told == (
                f"can't serve on 127.0.0.1:{port}: it is in use; stop what serves there, or choose "
                "another port"
            )


def test_where_the_jobs_are_kept_is_nobody_elses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal("--data-dir=jobs", "--record-dir=file")
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700


def test_a_redis_of_our_own_says_what_it_can_t_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(StepserveError, match=r"can't be kept in .*file: File exists; --data-dir"):
        embedded.EmbeddedRedis.start(tmp_path / "file")
