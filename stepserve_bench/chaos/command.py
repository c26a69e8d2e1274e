"""``stepserve chaos``: a service under load is broken again and again, and loses nothing."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kvstore.blocks import num_blocks_for
from stepserve import AsyncClient
from stepserve.modelfiles.facts import read_facts
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.chaos import audit
from stepserve_bench.chaos.fleet import Fleet, Plan, running
from stepserve_bench.chaos.jobs import (
    MAX_PROMPT,
    ChaosJob,
    OracleTruth,
    RecordedTruth,
    Truth,
    draw_jobs,
)
from stepserve_bench.chaos.kinds import KINDS, USUAL
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.load import Load
from stepserve_bench.chaos.progress import Progress
from stepserve_bench.chaos.report import figures, print_report
from stepserve_bench.chaos.run import Run
from stepserve_bench.chaos.schedule import Fault, schedule
from stepserve_bench.demo.storyteller import MODEL_DIR
from stepserve_bench.extras import require
from stepserve_bench.oracle_worker.oracle import BLOCK_SIZE
from stepserve_bench.report.machine import machine
from stepserve_bench.report.output import write

PICTURES = (".svg", ".png")
MODEL_NAME = "chaos"
# Distinct jobs of a real model: each is run undisturbed first.
NUM_RECORDED = 24


class Chaos(BaseSettings):
    """Break a service under load on purpose, and account for every job and every token.

    Starts a Redis with a replica, schedulers and workers of its own, keeps many streams going, and
    lets faults strike on a seed: processes are killed, stopped and told to end, one thread of a
    worker stands still, connections are cut, slowed down or let nothing through, Redis goes away or
    its replica takes its place. What ended is started again at once. Each stream notes what it is
    told, by offset; in the end every job must have ended once, with the tokens that it gives
    undisturbed, all of it must be stored as it was told, nobody may hold a block, and no client may
    have seen an error. Exits with status 1 where something is wrong, and says what.

    The workers are oracle workers: real ones but for the model, whose next token is a hash of the
    context, so that what is right is known (--worker oracle). With --worker model the model itself
    computes, in float64, and each of its jobs is run undisturbed first.

    How long streams stand still for a kind of fault is told in the end; that means something where
    faults are far enough apart: --apart-s 15. The last line is a JSON object with all figures.

    For an hour's worth of trouble in twenty minutes:
    stepserve chaos --faults 500 --apart-s 2 --workers 4 --schedulers 2 --streams 100
    """

    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_CHAOS_", env_ignore_empty=True, frozen=True
    )

    faults: int = Field(34, ge=0, description="faults that strike")
    apart_s: float = Field(3.0, ge=0, description="seconds between two faults, at least")
    kinds: str = Field(
        "",
        description=f"which faults, KIND[,KIND], of {', '.join(KINDS)}; default: all but the last",
    )
    workers: int = Field(2, ge=1, le=32, description="workers")
    schedulers: int = Field(2, ge=1, le=16, description="schedulers")
    streams: int = Field(32, ge=1, le=4096, description="jobs followed at the same time")
    max_tokens: int = Field(300, ge=1, le=1500, description="tokens of a job at most")
    worker: Literal["oracle", "model"] = Field("oracle", description="what computes")
    model: str = Field(
        "",
        description="checkpoint directory, for oracle workers that of a tokenizer and a config; "
        "default: the demonstration model",
    )
    step_ms: float = Field(30.0, ge=0, description="how long an oracle worker's step takes")
    num_blocks: int = Field(1024, ge=1, description="KV blocks of each worker")
    durability: Literal["local", "replicated"] = Field(
        "replicated",
        description="as of stepserve scheduler; with local, redis-failover may lose a job whose "
        "scheduler ends in the same moments",
    )
    lease_ttl_s: float = Field(2.0, ge=0.5, description="as of stepserve scheduler")
    seed: int = Field(0, description="seed of faults and jobs")
    progress: bool = Field(True, description="say each fault on standard error")
    picture: str = Field("", description="draw faults and pauses into this SVG or PNG file")
    out: str = Field("", description="also write the figures to this JSON file")

    def run(self) -> int:
        """Return 0 where nothing was lost, 1 where something was."""
        found = self.measured()
        print_report(found, self.apart_s)
        print(json.dumps({name: value for name, value in found.items() if name != "struck"}))
        return 1 if found["num_problems"] else 0

    def measured(self) -> dict[str, Any]:
        """Do it; return the figures. Raises StepserveError where it could not be done."""
        faults = schedule(self.seed, self._kinds(), self.faults, self.apart_s)
        if self.num_blocks < (least := num_blocks_for(MAX_PROMPT + self.max_tokens, BLOCK_SIZE)):
            raise InvalidRequest("num_blocks", f"a job may need {least}")
        if self.picture:
            if Path(self.picture).suffix.lower() not in PICTURES:
                raise InvalidRequest("picture", f"{self.picture!r} ends in none of {PICTURES}")
            require("matplotlib", "--picture")
        ledger, progress = Ledger(), Progress(len(faults), is_silent=not self.progress)
        with tempfile.TemporaryDirectory(prefix="stepserve-chaos-") as directory:
            run, counted = asyncio.run(self._run(Path(directory), faults, ledger, progress))
        found = {
            "settings": self.model_dump(exclude={"out", "picture", "progress"}),
            **figures(ledger, run.struck, counted),
            "machine": machine(),
        }
        # First of all: it took long.
        write(found, self.out)
        if self.picture:
            from stepserve_bench.chaos.picture import draw

            draw(Path(self.picture), ledger, run.struck)
        return found

    @property
    def _directory(self) -> Path:
        return Path(self.model) if self.model else MODEL_DIR

    def _kinds(self) -> list[str]:
        names = [name.strip() for name in self.kinds.split(",") if name.strip()] or list(USUAL)
        if unknown := [name for name in names if name not in KINDS]:
            raise InvalidRequest("kinds", f"{unknown[0]!r} is none of {', '.join(KINDS)}")
        if self.worker != "oracle":
            names = [name for name in names if self.kinds or not KINDS[name].needs_oracle]
            if unfit := [name for name in names if KINDS[name].needs_oracle]:
                raise InvalidRequest("kinds", f"{unfit[0]!r} needs --worker oracle")
        return names

    async def _run(
        self, directory: Path, faults: list[Fault], ledger: Ledger, progress: Progress
    ) -> tuple[Run, dict[str, float]]:
        progress.say(f"{self.workers} workers and {self.schedulers} schedulers start ...")
        async with running(self._plan(directory)) as fleet:
            progress.say("everything serves")
            run = Run(fleet, ledger, progress)
            truth, jobs = await self._truth(fleet, progress)
            load = Load(fleet.targets, jobs, ledger)
            await run.disturb(load, self.streams, faults)
            ledger.check(truth)
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(AsyncClient(fleet.targets[0]))
                progress.say("every output is read again")
                await audit.check_stored(client, ledger)
                await audit.check_known(client, ledger)
            counted = await audit.check_empty(fleet, ledger)
            counted["crashes_by_poison"] = fleet.num_crashes
            progress.problems(ledger)
        return run, counted

    def _plan(self, directory: Path) -> Plan:
        shared = [f"--model={self._directory}", f"--model-name={MODEL_NAME}", "--port=0"]
        shared.append("--metrics-port=0")
        of_worker = [*shared, f"--num-blocks={self.num_blocks}"]
        if self.worker == "oracle":
            worker = ["stepserve_bench.oracle_worker", *of_worker, f"--step-ms={self.step_ms}"]
        else:
            exact = ("--device=cpu", "--dtype=float64", "--num-threads=1")
            worker = ["worker_svc", *of_worker, *exact]
        scheduler = ["scheduler_svc", *shared, f"--lease-ttl-s={self.lease_ttl_s}"]
        return Plan(
            model_name=MODEL_NAME,
            worker=worker,
            scheduler=[*scheduler, f"--durability={self.durability}"],
            num_workers=self.workers,
            num_schedulers=self.schedulers,
            num_jobs=self.streams,
            directory=directory / "redis",
        )

    async def _truth(self, fleet: Fleet, progress: Progress) -> tuple[Truth, Any]:
        """What is right, and the jobs without end."""
        jobs = draw_jobs(self.seed, self.max_tokens)
        if self.worker == "oracle":
            return OracleTruth(read_facts(self._directory).max_context), jobs
        known: list[ChaosJob] = list(islice(jobs, NUM_RECORDED))
        progress.say(f"{len(known)} jobs are run undisturbed")
        async with AsyncClient(fleet.targets[0]) as client:
            return await RecordedTruth.learn(client, known), cycle(known)
