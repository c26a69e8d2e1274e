"""``stepserve simulate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler_svc.settings import PlanningSettings
from stepserve.process.command_line import parse_settings
from stepserve.protocol.errors import InvalidRequest, StepserveError
from stepserve_bench.simulator.command import Simulate
from stepserve_bench.simulator.scenarios import SCENARIOS


def simulate(capsys: pytest.CaptureFixture[str], *flags: str, status: int | None = 0) -> Any:
    """Run it; return the JSON object of the last line."""
    ended = parse_settings(Simulate, "stepserve simulate", flags).run()
    if status is not None:
        assert ended == status
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_one_run_ends_with_its_figures_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out.json"
    result = simulate(capsys, "--jobs", "50", "--out", str(out))
    assert result == json.loads(out.read_text())
    assert result["figures"]["jobs"] == 50
    assert result["figures"]["requests_per_s"] > 0
    assert result["settings"]["jobs"] == 50


def test_a_load_is_a_share_of_the_capacity(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--jobs", "200", "--max-batch-size", "8", "--lengths", "fixed:100,20")
    half = simulate(capsys, *flags, "--load", "0.5")
    full = simulate(capsys, *flags, "--load", "1.0")
    assert full["rate"] == pytest.approx(2 * half["rate"])
    assert half["figures"]["latency_s_mean"] < full["figures"]["latency_s_mean"]


def test_every_kind_of_arrival_and_length_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for arrivals in ("once", "poisson", "bursty", "onoff", "closed"):
        flags = ("--arrivals", arrivals, "--rate", "50", "--storm-rate", "2")
        lengths = ("--lengths", "uniform:4,40,2,10")
        result = simulate(capsys, "--jobs", "30", *flags, *lengths, "--urgent-share", "0.2")
        assert result["figures"]["jobs"] >= 30


def test_tenants_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(capsys, "--jobs", "40", "--tenants", "a=3,b=1", "--policy", "fair")
    assert {name: group["jobs"] for name, group in result["tenants"].items()} == {"a": 30, "b": 10}


def test_curves_and_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ("--jobs", "60", "--max-batch-size", "8", "--plots", str(tmp_path))
    systems = ("--systems", "continuous+paged,continuous+padded", "--loads", "0.3,0.9")
    result = simulate(capsys, *flags, *systems)
    assert [curve["system"] for curve in result["curves"]] == systems[1].split(",")
    assert all(len(curve["figures"]) == 2 for curve in result["curves"])
    simulate(capsys, *flags)
    for name in ("latency.svg", "occupancy.svg"):
        assert "<svg" in (tmp_path / name).read_text()


def test_a_shared_system_prompt_is_in_every_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(capsys, "--jobs", "30", "--prefix-tokens", "64", "--lengths", "fixed:16,4")
    assert result["figures"]["jobs"] == 30


@pytest.mark.parametrize(
    "flags",
    [
        ("--lengths", "sharegpt:3"),
        ("--lengths", "fixed:0,3"),
        ("--lengths", "uniform:1,2"),
        ("--tenants", "a"),
        ("--tenants", "a=-1"),
        ("--systems", "fast+paged", "--loads", "0.5"),
        ("--loads", "0.5,none"),
        ("--scenario", "speed"),
        ("--costs", "nowhere.json"),
        ("--fit", "nowhere"),
        ("--arrivals", "poisson"),
        ("--storm-rate", "1"),
        ("--lengths", "fixed:5000,1"),
    ],
)
def test_wrong_words_are_refused(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequest):
        simulate(capsys, "--jobs", "10", *flags)


def test_every_planning_setting_reaches_the_system() -> None:
    """A setting that ``up`` has and a simulation ignores would tell lies."""
    recorded = {"record_dir", "record_events_dir", "target_step_ms"}
    simulated = set(Simulate().system.__dataclass_fields__)
    assert set(PlanningSettings.model_fields) - recorded <= simulated
    assert Simulate(target_step_ms=1.5).system.core_config().target_step_us == 1500


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_experiment_runs_small(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that is as long as a time, not as many jobs.
    monkeypatch.setattr("stepserve_bench.simulator.scenarios.policies._SECONDS", 6.0)
    flags = ["--jobs", "80", "--max-context", "2048"]
    if name != "pipeline":  # which has places for each stage
        flags += ["--max-batch-size", "8"]
    result = simulate(capsys, "--scenario", name, *flags, status=None)
    (experiment,) = result["experiments"]
    assert experiment["name"] == name
    assert "computed from data sheets" in result["costs"]["source"]
    for target in experiment["targets"]:
        assert target["value"] is not None
        assert target["is_met"] or target["limit"]


@pytest.mark.parametrize(
    ("scenario", "flags", "named"),
    [
        ("fair", ("--tenants", "a=1", "--load", "2"), "fair would ignore --load, --tenants"),
        ("paging", ("--attention", "paged"), "--attention"),
        ("computed-twice", ("--num-blocks", "99"), "--num-blocks"),
        ("all", ("--plots", "out"), "--plots"),
    ],
)
def test_an_experiment_refuses_what_it_would_ignore(
    capsys: pytest.CaptureFixture[str], scenario: str, flags: tuple[str, ...], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        simulate(capsys, "--scenario", scenario, *flags)


@pytest.mark.parametrize(
    ("module", "flags"), [("scipy", ("--fit", "steps")), ("matplotlib", ("--plots", "out"))]
)
def test_what_is_not_installed_is_named_with_its_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    flags: tuple[str, ...],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StepserveError, match=rf"{flags[0]} needs {module}: pip install .*bench"):
        simulate(capsys, *flags)


def test_a_cap_is_asked_for_where_the_experiment_is_about_caps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--scenario", "computed-twice", "--jobs", "40", "--max-batch-size", "4")
    for given, asked in (((), 1024), (("--max-tokens", "300"), 300)):
        (experiment,) = simulate(capsys, *flags, *given, status=None)["experiments"]
        assert f"jobs ask for {asked} tokens at most" in experiment["notes"]
