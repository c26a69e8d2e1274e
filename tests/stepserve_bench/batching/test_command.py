"""The commands, run for real on a handful of jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stepserve.cli import parse
from stepserve.protocol.errors import StepserveError
from stepserve_bench.batching.methods import BASELINE, PAGED
from stepserve_bench.batching.prediction import PREDICTED
from stepserve_bench.measure.service_run import Bed


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPSERVE_REDIS_URL", raising=False)


@pytest.mark.long
def test_batching(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "out" / "figures.json", tmp_path / "figures.svg"
    flags = (
        f"--systems={BASELINE},{PAGED} --num-jobs=12 --scale=0.1 --batch-size=3 --seed=2".split()
    )
    assert parse(["bench", "batching", *flags, f"--out={out}", f"--picture={picture}"]).run() == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found == json.loads(out.read_text())
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    static, paged = (found["systems"][name] for name in (BASELINE, PAGED))
    # Each job's tokens come one a step, whatever the batch; every step has a row.
    num_tokens = 12 * found["workload"]["mean_output_tokens"]
    for figures in (static, paged):
        assert round(figures["num_steps"] * figures["rows_per_step"]) >= round(num_tokens)
        assert 0 < figures["occupancy"] <= 1
    assert static["num_steps"] > paged["num_steps"]
    assert static["padded_share"] > paged["padded_share"] == 0
    assert found["same_outputs"] == {BASELINE: "12 of 12", PAGED: "12 of 12"}
    assert found["predicted"].keys() == {BASELINE, PAGED}
    for predicted in found["predicted"].values():
        assert predicted["figures"].keys() == predicted["errors"].keys() == PREDICTED.keys()
        assert min(predicted["figures"].values()) > 0
    assert f"{PAGED} over {BASELINE}" in found["targets"]


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--costs=no-such-file.json", "costs: .*no-such-file"),
        ("--picture=figures.txt", "picture: .*figures.txt"),
    ],
)
def test_batching_refuses_before_it_measures(
    flag: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bed, "measure", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(StepserveError, match=problem):
        parse(["bench", "batching", flag]).run()


@pytest.mark.parametrize(
    ("package", "flag"), [("scipy", "--fit"), ("matplotlib", "--picture=a.svg")]
)
def test_batching_says_what_to_install(
    package: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bed, "measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StepserveError, match=rf"{package}: pip install 'stepserve\[bench\]'"):
        parse(["bench", "batching", flag]).run()
