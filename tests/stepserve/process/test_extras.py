"""What is said where something is not installed names what people know."""

from __future__ import annotations

import pytest

from stepserve.process import extras
from stepserve.process.extras import NotInstalled, needs_extra, require_local


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in names else name)


@pytest.mark.parametrize(
    ("extra", "missing", "named"),
    [
        ("local", ("grpc_health", "torch"), "torch"),
        ("scheduler", ("grpc_health", "redis", "transformers"), "transformers"),
        ("worker", ("grpc_health", "torch"), "torch"),
        # Only what is missing is named, even where few know it.
        ("worker", ("grpc_health",), "grpc_health"),
        ("scheduler", ("grpc_health", "jinja2"), "grpc_health"),
    ],
)
def test_a_missing_library_is_named_by_one_that_is_known(
    extra: str, missing: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, *missing)
    with (
        pytest.raises(
            NotInstalled, match=rf"^up needs {named}: pip install 'stepserve\[{extra}\]'$"
        ),
        needs_extra(extra, "up"),
    ):
        raise ModuleNotFoundError("No module named 'grpc_health'", name="grpc_health.v1")


def test_what_no_extra_brings_stays_what_it_is() -> None:
    for extra, name in (("", "torch"), ("local", "stepserve.nothing"), ("local", None)):
        with pytest.raises(ModuleNotFoundError), needs_extra(extra, "up"):
            raise ModuleNotFoundError(name=name)


def test_a_service_on_this_machine_needs_torch_first(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "grpc_health", "torch")
    with pytest.raises(NotInstalled, match=r"needs torch: pip install 'stepserve\[local\]'"):
        require_local("up")
