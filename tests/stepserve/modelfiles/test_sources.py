"""What ``--model`` and its variable mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler_svc.settings import SchedulerSettings
from stepserve.cli import parse
from stepserve.commands.up import Shared, Up
from stepserve.modelfiles.sources import ModelSource, model_sources


@pytest.mark.parametrize(
    ("texts", "name", "found"),
    [
        (["a/b"], "", [("b", "a/b")]),
        (["a/b"], "n", [("n", "a/b")]),
        (["x=a/b", "o/y=c"], "", [("x", "a/b"), ("o/y", "c")]),
        (["x=/d/k=v"], "", [("x", "/d/k=v")]),
        (["=a/b"], "", [("b", "a/b")]),
        (["x=a/b"], "n", [("x", "a/b")]),
    ],
)
def test_a_text_is_a_source_or_names_one(
    texts: list[str], name: str, found: list[tuple[str, str]]
) -> None:
    assert model_sources(texts, name) == tuple(ModelSource(*each) for each in found)


@pytest.mark.parametrize(
    ("texts", "name", "problem"),
    [
        ([], "", "is needed"),
        (["a", "b"], "n", "names one model"),
        (["x="], "", "names no checkpoint"),
        (["d/a", "e/a"], "", "two are called 'a'"),
        (["m/1=a", "m-1=b"], "", "'m/1' and 'm-1' can't be told apart"),
    ],
)
def test_what_can_not_be_told_apart_is_refused(texts: list[str], name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        model_sources(texts, name)


def test_what_is_there_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k=v,w"
    path.mkdir()
    [found] = model_sources([str(path)])
    assert found == ModelSource("k=v,w", str(path))
    monkeypatch.setenv("STEPSERVE_MODEL", str(path))
    assert SchedulerSettings().sources == (found,)  # type: ignore[call-arg]


@pytest.mark.parametrize("variable", ["x=a,y=b", '["x=a", "y=b"]', "x=a,,y=b,"])
def test_a_variable_says_what_flags_do(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = parse(["scheduler", "--model=x=a", "--model", "y=b"])
    assert isinstance(flags, SchedulerSettings)
    monkeypatch.setenv("STEPSERVE_MODEL", variable)
    assert SchedulerSettings().sources == flags.sources  # type: ignore[call-arg]
    assert [each.name for each in flags.sources] == ["x", "y"]


def test_up_has_workers_for_each_model() -> None:
    up = Up(model=["x=a", "b"], workers=2, device="cpu")
    shared = Shared("", "token")
    services = [up._worker(number, shared) for number in range(up._num_workers)]
    models = [[f for f in s.arguments if f.startswith("--model")] for s in services]
    assert models == [["--model=a", "--model-name=x"]] * 2 + [["--model=b", "--model-name=b"]] * 2
    assert {f for s in services for f in s.arguments if "memory" in f} == {
        "--memory-fraction=0.0750"
    }
    arguments = up._scheduler("all", 0, shared, []).arguments
    assert [f for f in arguments if f.startswith("--model")] == ["--model=x=a", "--model=b=b"]
