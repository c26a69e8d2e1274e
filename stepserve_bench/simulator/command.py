"""``stepserve simulate``: the real scheduler core in virtual time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console

from scheduler_svc.settings import PlanningSettings
from stepserve.protocol.choices import Attention
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.extras import require
from stepserve_bench.report.machine import machine
from stepserve_bench.report.tables import table_console
from stepserve_bench.simulator.cost import (
    Costs,
    about_costs,
    add_costs,
    costs_in_words,
    read_costs,
)
from stepserve_bench.simulator.curves import load_curves
from stepserve_bench.simulator.inputs import (
    ArrivalKind,
    Demand,
    parse_lengths,
    parse_loads,
    parse_systems,
    parse_weights,
)
from stepserve_bench.simulator.records import Recording
from stepserve_bench.simulator.report import print_curves, print_figures, print_fits, print_verdicts
from stepserve_bench.simulator.runs import Runner
from stepserve_bench.simulator.scenarios import SCENARIOS, Ground, ignored
from stepserve_bench.simulator.stages import Link
from stepserve_bench.simulator.system import System

if TYPE_CHECKING:
    from stepserve_bench.simulator.fit import Fit

# Settings that a System has under the same name, and those that a Demand has.
_OF_SYSTEM = {
    "batching",
    "attention",
    "policy",
    "max_batch_size",
    "max_step_tokens",
    "max_steps_in_flight",
    "target_batch_size",
    "num_blocks",
    "block_size",
    "max_context",
    "prefix_caching",
    "enable_preemption",
    "preemption_margin_s",
    "wait_weight",
    "remaining_weight",
    "priority_weight",
}
_OF_DEMAND = {
    "jobs",
    "arrivals",
    "clients",
    "burst_variation",
    "burst_s",
    "max_tokens",
    "prefix_tokens",
    "urgent_share",
    "urgent_priority",
    "storm_rate",
    "storm_prompt",
}


class Simulate(PlanningSettings):
    """Drive the real scheduler core, its policy and its block pool in virtual time.

    Jobs come, lanes claim them, every step is planned by the code that plans real ones; only
    the worker and Redis are models: a step takes what a cost model says, a round trip what it
    took when measured. One run, an experiment (--scenario), latency against load (--loads), or
    a fit of the cost model to recorded steps (--fit). The same flags give the same figures,
    byte for byte. The last line printed is a JSON object.

    examples:
      stepserve simulate --jobs 20000 --load 0.8
      stepserve simulate --scenario all
      stepserve simulate --systems static+padded,continuous+paged --loads 0.3,0.6,0.9 --plots out
      stepserve up --model DIR --record-dir steps, then some load, then
      stepserve simulate --fit steps --costs-out costs.json
      stepserve simulate --costs costs.json --workers 100 --jobs 1000000 --load 0.9
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_SIMULATE_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    scenario: str = Field(
        "",
        description=f"an experiment: {', '.join(SCENARIOS)}, or all; nothing: one run. Flags that "
        "it sets itself or has no use for are refused",
    )
    workers: int = Field(1, ge=1, le=10_000, description="workers, each with a lane of its own")
    pipeline_stages: int = Field(1, ge=1, le=64, description="stages of each worker")
    stage_link_us: tuple[float, float] = Field(
        (Link().step_us, Link().position_us),
        description="from a stage to the next: microseconds STEP,POSITION of each step, and of "
        "each position in it",
    )
    jobs: int = Field(3_000, ge=1, description="jobs in all")
    seed: int = Field(0, description="seed of arrivals and lengths")
    arrivals: ArrivalKind = Field(
        "auto", description="auto: poisson where there is --rate or --load, else all at once"
    )
    rate: float = Field(0.0, ge=0, description="jobs a second; 0: by --load")
    load: float = Field(
        0.0, ge=0, description="the rate as a share of the capacity, which is simulated first"
    )
    clients: int = Field(64, ge=1, description="for --arrivals closed: jobs at a time")
    burst_variation: float = Field(3.0, gt=0, description="bursty: deviation of gaps over mean")
    burst_s: tuple[float, float] = Field((1.0, 4.0), description="onoff: seconds ON,OFF")
    lengths: str = Field(
        "sharegpt", description="sharegpt, fixed:PROMPT,OUTPUT, or uniform:LOW,HIGH,LOW,HIGH"
    )
    length_scale: float = Field(1.0, gt=0, description="times the tokens of sharegpt")
    max_tokens: int = Field(
        0,
        ge=0,
        description="what each job asks for at most; 0: exactly its output (1024 in the "
        "experiment computed-twice)",
    )
    prefix_tokens: int = Field(
        0, ge=0, description="tokens of a system prompt that all jobs begin with"
    )
    tenants: str = Field("", description="who sends what share of the jobs: a=3,b=1")
    urgent_share: float = Field(0.0, ge=0, le=1, description="share of the jobs that is urgent")
    urgent_priority: int = Field(10, ge=-10, le=10, description="the priority of urgent jobs")
    storm_rate: float = Field(0.0, ge=0, description="long prompts a second beside the jobs")
    storm_prompt: int = Field(2_048, ge=1, description="tokens of such a prompt")
    attention: Attention = Field("paged", description="what a step computes")
    num_blocks: int = Field(8192, ge=1, description="blocks of a worker's KV cache")
    block_size: int = Field(16, ge=1, description="tokens in a block")
    max_context: int = Field(4096, ge=2, description="tokens of prompt and output at most")
    costs: str = Field(
        "h200-qwen3-8b", description="h200-qwen3-8b, h200-qwen3-0.6b, or a file of --costs-out"
    )
    systems: str = Field("", description="BATCHING+ATTENTION[,...] to compare with --loads")
    loads: str = Field("", description="shares of the first system's capacity: 0.3,0.6,0.9")
    fit: str = Field(
        "",
        description="a --record-dir, or a file of `stepserve bench gpu`: fit costs to its steps "
        "(with --attention)",
    )
    measured_on: str = Field(
        "", description="where the steps of --fit were recorded; nothing: on this machine"
    )
    costs_out: str = Field("", description="where the fitted costs go; another attention's stay")
    plots: str = Field("", description="write pictures into this directory")
    out: str = Field("", description="also write the JSON object to this file")

    def run(self) -> int:
        """Simulate; 1 where an experiment misses its target."""
        if self.scenario:
            self._check_scenario()
        if self.plots:
            require("matplotlib", "--plots")
        if self.fit:
            return self._finish(self._fitted())
        runner = Runner(read_costs(self.costs), self.seed, Console(stderr=True))
        if self.scenario:
            return self._experiment(runner)
        result = self._curves(runner) if self.loads else self._one(runner)
        return self._finish({"costs": about_costs(self.costs), **result})

    @property
    def system(self) -> System:
        """The settings of one lane. Raises InvalidRequest where they contradict each other."""
        try:
            system = System(
                num_workers=self.workers,
                num_stages=self.pipeline_stages,
                stage_link=Link(*self.stage_link_us),
                target_step_us=round(self.target_step_ms * 1e3),
                tenant_weights=self.order.tenant_weights,
                # Simulated workers launch no further ahead than one that computes on a CPU.
                **self.model_dump(include=_OF_SYSTEM)
                | {"max_steps_in_flight": self.max_steps_in_flight or 2},
            )
            system.core_config()
        except ValueError as error:
            raise InvalidRequest("settings", str(error)) from None
        return system

    @property
    def demand(self) -> Demand:
        """What is asked of it. Raises InvalidRequest."""
        room = self.max_context - self.prefix_tokens
        return Demand(
            lengths=parse_lengths(self.lengths, room, self.length_scale),
            tenants=parse_weights(self.tenants),
            **self.model_dump(include=_OF_DEMAND),
        )

    def _one(self, runner: Runner) -> dict[str, Any]:
        system, demand, rate = self.system, self.demand, self.rate
        if self.load and not rate:
            rate = self.load * runner.capacity(system, demand)
            runner.console.print(f"{self.load:g} of the capacity is {rate:.2f} jobs/s")
        run = runner.run(system, demand.streams(rate))
        figures = run.figures()
        print_figures(
            table_console(), system.name, figures, costs_in_words(about_costs(self.costs))
        )
        if self.plots:
            from stepserve_bench.simulator.plots import plot_series

            runner.console.print(f"wrote {plot_series(Path(self.plots), system, run)}")
        by_tenant = {
            stream.tenant: group.figures()
            for stream, group in zip(demand.streams(rate), run.groups, strict=True)
            if stream.tenant
        }
        return {"rate": rate, "figures": figures, "tenants": by_tenant}

    def _curves(self, runner: Runner) -> dict[str, Any]:
        systems, loads = parse_systems(self.systems, self.system), parse_loads(self.loads)
        curves = load_curves(runner, systems, self.demand, loads)
        print_curves(table_console(), curves, costs_in_words(about_costs(self.costs)))
        if self.plots:
            from stepserve_bench.simulator.plots import plot_curves

            runner.console.print(f"wrote {plot_curves(Path(self.plots), curves)}")
        return {"curves": [curve.as_json() for curve in curves]}

    @property
    def _scenarios(self) -> list[str]:
        return list(SCENARIOS) if self.scenario == "all" else [self.scenario]

    def _check_scenario(self) -> None:
        """Raise InvalidRequest where it is unknown, or flags beside it would do nothing."""
        if not SCENARIOS.keys() >= set(self._scenarios):
            problem = f"{self.scenario!r} is none of {', '.join(SCENARIOS)}, all"
            raise InvalidRequest("scenario", problem)
        if found := ignored(self._scenarios, self.model_fields_set):
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in found)
            raise InvalidRequest("scenario", f"{self.scenario} would ignore {flags}")

    def _experiment(self, runner: Runner) -> int:
        ground = Ground(
            system=self.system,
            runner=runner,
            lengths=self.demand.lengths,
            num_jobs=self.jobs,
            max_tokens=self.max_tokens,
        )
        about = about_costs(self.costs)
        verdicts = []
        for name in self._scenarios:
            runner.console.print(f"{name} …")
            verdicts.append(SCENARIOS[name](ground))
        print_verdicts(table_console(), verdicts, costs_in_words(about))
        experiments = [verdict.as_json() for verdict in verdicts]
        self._finish({"costs": about, "experiments": experiments})
        return 0 if all(verdict.is_met for verdict in verdicts) else 1

    def _fitted(self) -> dict[str, Any]:
        # SciPy is wanted for this alone.
        require("scipy", "--fit")
        costs, fits, card = self._fits()
        print_fits(table_console(), fits)
        origin = {"measured_on": self.measured_on or card or _this_machine()}
        about = {name: {**fit.about, **origin} for name, fit in fits.items()}
        if self.costs_out:
            add_costs(Path(self.costs_out), costs, about)
        return {"fits": {name: {**asdict(costs[name]), **about[name]} for name in costs}}

    def _fits(self) -> tuple[Costs, Mapping[str, Fit], str]:
        """Fit a record, or results of a GPU; for these with the card's name."""
        from stepserve_bench.simulator.fit import fit_recordings
        from stepserve_bench.simulator.gpu_fit import fit_gpu_results

        if Path(self.fit).is_file():
            fit, card = fit_gpu_results(Path(self.fit))
            return {self.attention: fit.costs}, {self.attention: fit}, card
        recording = Recording(Path(self.fit), self.attention, self.batching)
        return *fit_recordings([recording]), ""

    def _finish(self, result: dict[str, Any]) -> int:
        """Print the JSON line, with what the figures are of."""
        settings = self.model_dump(exclude={"out", "plots"}, mode="json")
        line = json.dumps(_finite({"settings": settings, **result}))
        if self.out:
            Path(self.out).parent.mkdir(parents=True, exist_ok=True)
            Path(self.out).write_text(line + "\n", encoding="utf-8")
        print(line)
        return 0


def _this_machine() -> str:
    here = machine()
    return f"{here['processor']}, {here['cores']} cores, {here['date']}"


def _finite(value: Any) -> Any:
    """JSON has no numbers for nothing and for infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
