"""``stepserve submit``, ``attach``, ``get``, ``jobs``, ``cancel`` and ``delete``."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from stepserve.client.errors import TimedOut
from stepserve.client.json_forms import job_json, result_json
from stepserve.commands.connection import Connection
from stepserve.commands.prompting import Prompting
from stepserve.commands.streams import show, show_whole, view
from stepserve.commands.tables import print_rows
from stepserve.protocol.inference import JobInfo, JobPage

COLUMNS = ("job", "state", "arrived", "prompt", "output", "ended", "tenant", "note")


class Submit(Prompting, Connection):
    """Store a job and print its id; it runs whoever is connected.

    `stepserve attach` streams its output, as often as you like, and `stepserve jobs` tells how
    it stands.
    """

    def run(self) -> int:
        """Submit; return 0."""
        request = self.request()
        with self.client() as client:
            job_id = client.submit(request)
        print(json.dumps({"job_id": job_id}) if self.as_json else job_id)
        return 0


class Attach(Connection):
    """Stream a job's output from an offset on, as often as you like."""

    job_id: CliPositionalArg[str] = Field(description="what submit printed")
    offset: int = Field(0, ge=0, description="the first token to show, of each output")

    def run(self) -> int:
        """Stream; return 0 unless the job failed."""
        with self.client() as client:
            num_outputs = len(client.get(self.job_id).outputs)
            shown = view(num_outputs, as_json=self.as_json, offset=self.offset)
            events = client.attach(self.job_id, self.offset)
            return show(events, shown, self.same_target())


class Jobs(Connection):
    """List jobs, newest first; what ended last first, where only ended ones are asked for.

    Where there are more, the last line says how to see them. In a terminal --all shows a page
    at a time.
    """

    state: Literal["all", "queued", "running", "ended"] = Field("all", description="only these")
    tenant: str = Field("", description="only this tenant's")
    served_model: str = Field("", description="only this model's")
    limit: int = Field(20, ge=1, le=1000, description="jobs on a page")
    page_token: str = Field("", description="go on where the list before ended")
    every: bool = Field(False, description="all pages, one after another")

    def run(self) -> int:
        """Print tables, or with --json one line for each page; return 0."""
        state = None if self.state == "all" else self.state
        token = self.page_token
        with self.client() as client:
            while True:
                page = client.page(state, self.tenant, self.limit, token, self.served_model)
                self._print(page)
                token = page.next_page_token
                if not token or not self.every or not _wants_more():
                    break
        if token and not self.as_json:
            print(f"there are more: --all, or --page-token {token}", file=sys.stderr)
        return 0

    def _print(self, page: JobPage) -> None:
        if self.as_json:
            jobs = [job_json(job) for job in page.jobs]
            told = {"jobs": jobs, "next_page_token": page.next_page_token}
            print(json.dumps(told), flush=True)
            return
        print_rows(COLUMNS, map(_cells, page.jobs))


def _wants_more() -> bool:
    """Ask a person whether to go on; a program gets all."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    try:
        return input("-- Enter: more, q: enough -- ").strip().lower() not in ("q", "n")
    except EOFError:
        return False


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
        with self.client() as client:
            job = client.cancel(self.job_id)
        reasons = {output.finish.reason for output in job.outputs if output.finish is not None}
        told = f"{job.job_id} {job.state}: {', '.join(sorted(reasons)) or 'going on'}"
        print(json.dumps(job_json(job)) if self.as_json else told)
        return 0


class Get(Connection):
    """Wait for a job's end and print its whole output; with --json all that is known of it."""

    job_id: CliPositionalArg[str] = Field(description="what submit printed")
    timeout_s: float | None = Field(
        None, ge=0, description="seconds to wait at most; default: until it has ended"
    )

    def run(self) -> int:
        """Wait and print; return 0, 1 where an output failed."""
        with self.client() as client:
            try:
                completion = client.result(self.job_id, self.timeout_s)
            except TimedOut:
                told = f"job {self.job_id} has not ended in {self.timeout_s:g} s; it goes on"
                raise TimedOut(told) from None
            job = client.get(self.job_id)
        if self.as_json:
            print(json.dumps(result_json(job, completion)))
        else:
            show_whole(completion)
        failed = any(output.finish_reason == "error" for output in completion.outputs)
        return 1 if failed else 0


class Delete(Connection):
    """Forget a job and all that is kept of it, its text too; one that goes on ends first."""

    job_id: CliPositionalArg[str] = Field(description="what submit printed")

    def run(self) -> int:
        """Delete; return 0."""
        with self.client() as client:
            client.delete(self.job_id)
        told = json.dumps({"job_id": self.job_id, "deleted": True})
        print(told if self.as_json else f"{self.job_id} deleted")
        return 0
