"""``stepserve bench gpu``: sections one after the other, within a budget, into one file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stepserve.protocol.choices import Device, KernelSet
from stepserve.protocol.errors import StepserveError
from stepserve_bench.gpu.card import has_gpu
from stepserve_bench.gpu.child import rows_of
from stepserve_bench.gpu.floors import Ceilings
from stepserve_bench.gpu.report import line, report, summary
from stepserve_bench.gpu.results import Results
from stepserve_bench.gpu.sections import CARD, DEFAULT, SECTIONS
from stepserve_bench.gpu.setup import Section, Setup
from stepserve_bench.report.machine import machine

# The checkpoints of all models that are measured.
SCRATCH_BYTES = 20 << 30


class GpuBench(BaseSettings):
    """Check and measure one GPU: kernels against references and floors, steps, the service.

    Models have random weights of real shapes; nothing is downloaded. Each result is in the file
    as soon as it is there, so a run that is ended early keeps what it has. Without a GPU all of it
    runs on tiny shapes, which shows that it works and nothing of speed.
    The status is 1 where a kernel or an output is wrong, or a section failed.
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_BENCH_", env_ignore_empty=True, frozen=True
    )

    sections: str = Field(
        ",".join(DEFAULT), description=f"which to run, in order, of: {', '.join(SECTIONS)}"
    )
    sweep: bool = Field(False, description="only sweep the attention kernels' tiles")
    device: Device = Field("auto", description="auto: cuda if it is there")
    kernels: KernelSet = Field(
        "auto", description="auto: triton on cuda, compiled CPU kernels on cpu"
    )
    budget_s: float = Field(480.0, gt=0, description="seconds for all of it")
    limits: str = Field(
        "", description="other seconds for single sections, as in steps=60,8b=90; none takes more"
    )
    quick: bool = Field(False, description="fewer cases and shorter runs")
    up: str = Field("", description="more options for `stepserve up`, as on a command line")
    out: Path = Field(
        Path("bench-gpu.json"), description="where the results go; the table beside it, as .md"
    )

    @field_validator("sections")
    @classmethod
    def _are_known(cls, value: str) -> str:
        if unknown := [name for name in value.split(",") if name not in SECTIONS]:
            raise ValueError(f"no section {unknown[0]!r}: there are {', '.join(SECTIONS)}")
        return value

    @field_validator("limits")
    @classmethod
    def _are_limits(cls, value: str) -> str:
        for pair in filter(None, value.split(",")):
            name, _, seconds = pair.partition("=")
            if name not in SECTIONS or not seconds.replace(".", "", 1).isdigit():
                raise ValueError(f"{pair!r} is not SECTION=SECONDS")
        return value

    def run(self) -> int:
        """Measure; the last line printed is a JSON object with the figures."""
        end_s = time.monotonic() + self.budget_s
        # Asking torch whether there is a GPU would touch it, and no process forked later could.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        names = ["sweep"] if self.sweep else self.sections.split(",")
        loaded = {name: SECTIONS[name].load() for name in names}
        results = Results(self.out, {"machine": machine(), "options": self.model_dump(mode="json")})
        with _scratch() as scratch:
            setup = self._measure_card(self._setup(scratch), results)
            for name, section in loaded.items():
                limit_s = self._limits().get(name, SECTIONS[name].limit_s)
                deadline_s = min(end_s, time.monotonic() + limit_s)
                _say(f"{name}: {SECTIONS[name].purpose}")
                _run(name, section, replace(setup, deadline_s=deadline_s), results)
        return self._tell(results)

    def _tell(self, results: Results) -> int:
        table = report(results.content)
        self.out.with_suffix(".md").write_text(table, encoding="utf-8")
        print(table)
        figures = summary(results.content)
        print(json.dumps({"out": str(self.out), "problems": results.problems, "figures": figures}))
        return 1 if results.problems else 0

    def _setup(self, scratch: Path) -> Setup:
        device = self.device
        setup = Setup("cpu", self.kernels, self.quick, tuple(shlex.split(self.up)), scratch)
        if device == "auto":
            deadline_s = time.monotonic() + CARD.limit_s
            [found] = rows_of(has_gpu, replace(setup, deadline_s=deadline_s))
            device = "cuda" if found["is_there"] else "cpu"
        return replace(setup, device_name=device)

    def _measure_card(self, setup: Setup, results: Results) -> Setup:
        deadline_s = time.monotonic() + CARD.limit_s
        _run("card", CARD.load(), replace(setup, deadline_s=deadline_s), results)
        row = results.rows("card")[0]
        if "bytes_per_s" not in row:
            raise StepserveError(f"the device does not answer: {row.get('error')}")
        return replace(setup, ceilings=Ceilings(row["bytes_per_s"], row["flops_per_s"]))

    def _limits(self) -> dict[str, float]:
        pairs = (pair.partition("=") for pair in self.limits.split(",") if pair)
        return {name: float(seconds) for name, _, seconds in pairs}


def _run(name: str, section: Section, setup: Setup, results: Results) -> None:
    results.begin(name)
    if setup.left_s <= 0:
        results.add(name, {"what": name, "error": "no time was left"})
        return
    for row in rows_of(section, setup):
        results.add(name, {"what": name, **row})
        _say(f"  {line(row)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory in memory, where there is one: checkpoints are written and read once."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > SCRATCH_BYTES
    directory = Path(
        tempfile.mkdtemp(prefix="stepserve-bench-gpu-", dir=memory if has_room else None)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
