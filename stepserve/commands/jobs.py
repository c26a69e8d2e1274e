"""``stepserve submit``, ``attach``, ``jobs`` and ``cancel``."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stepserve.client.blocking import Client
from stepserve.commands.options import Connection, Prompting, show
from stepserve.protocol.inference import JobInfo


class Submit(Connection, Prompting):
    """Store a job and print its id; it runs whoever is connected."""

    def run(self) -> int:
        """Submit; return 0."""
        with Client(self.target) as client:
            print(client.submit(self.request()))
        return 0


class Attach(Connection):
    """Stream a job's output from an offset on, as often as you like."""

    job_id: CliPositionalArg[str] = Field(description="what submit printed")
    offset: int = Field(0, ge=0, description="the first token to show")

    def run(self) -> int:
        """Stream; return 0 unless the job failed."""
        with Client(self.target) as client:
            num_outputs = len(client.get(self.job_id).outputs)
            return show(client.attach(self.job_id, self.offset), num_outputs)


class Jobs(Connection):
    """List jobs, newest first."""

    state: Literal["all", "queued", "running", "ended"] = Field("all", description="only these")
    tenant: str = Field("", description="only this tenant's")
    limit: int = Field(20, ge=1, le=1000, description="at most so many")

    def run(self) -> int:
        """Print a table; return 0."""
        with Client(self.target) as client:
            state = None if self.state == "all" else self.state
            jobs = client.list(state, self.tenant, self.limit)
        table = Table(box=None)
        for name in ("job", "state", "arrived", "prompt", "output", "ended", "tenant", "note"):
            table.add_column(name, no_wrap=name == "job")
        for job in jobs:
            table.add_row(*map(escape, _cells(job)))
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        return 0


def _cells(job: JobInfo) -> list[str]:
    arrived = datetime.fromtimestamp(job.arrival_s).strftime("%Y-%m-%d %H:%M:%S")
    reasons = [output.finish.reason for output in job.outputs if output.finish is not None]
    messages = [output.finish.message for output in job.outputs if output.finish is not None]
    return [
        job.job_id,
        job.state,
        arrived,
        str(job.usage.prompt_tokens),
        "+".join(str(output.num_tokens) for output in job.outputs),
        ", ".join(sorted(set(reasons))),
        job.tenant,
        job.note or "; ".join(dict.fromkeys(filter(None, messages))),
    ]


class Cancel(Connection):
    """End a job; one that has ended already stays as it is."""

    job_id: CliPositionalArg[str] = Field(description="what submit printed")

    def run(self) -> int:
        """Cancel; return 0."""
        with Client(self.target) as client:
            job = client.cancel(self.job_id)
        reasons = {output.finish.reason for output in job.outputs if output.finish is not None}
        print(f"{job.job_id} {job.state}: {', '.join(sorted(reasons)) or 'going on'}")
        return 0
