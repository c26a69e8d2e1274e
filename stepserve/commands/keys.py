"""``stepserve keys add``, ``list`` and ``remove``: the file that a scheduler's API keys are in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg

from scheduler_svc.access.api_key import MAX_PRIORITY, MAX_TENANT_CHARS, ApiKey, new_key
from scheduler_svc.access.key_file import add_key, read_keys, remove_key
from stepserve.commands.tables import print_rows
from stepserve.process.variables import FROM_ENVIRONMENT

COLUMNS = ("key", "tenant", "weight", "requests/min", "tokens/min", "jobs", "priority", "made")


class KeysAdd(BaseSettings):
    """Make an API key, put its digest into FILE, and print it: this once, and never again.

    A scheduler that has --api-keys-file FILE knows it within a second. The bounds are the key's
    own, over all schedulers, for each model.
    """

    model_config = FROM_ENVIRONMENT

    file: CliPositionalArg[Path] = Field(description="where the keys are; made if it is not there")
    tenant: str = Field(
        min_length=1, max_length=MAX_TENANT_CHARS, description="whose jobs are asked for with it"
    )
    weight: float | None = Field(
        None,
        ge=0.001,
        le=1000,
        description="policy fair: its jobs' weight; default: the tenant's in --tenant-weights",
    )
    requests_per_minute: int = Field(0, ge=0, description="jobs a minute; 0: no bound")
    tokens_per_minute: int = Field(
        0, ge=0, description="tokens of prompts and outputs a minute; 0: no bound"
    )
    max_jobs: int = Field(0, ge=0, description="jobs that have not ended; 0: no bound")
    max_priority: int = Field(
        MAX_PRIORITY,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="highest priority of its jobs, as in gRPC, where the highest goes first",
    )
    operator: bool = Field(
        False, description="may name any tenant, and sees the jobs of all: for your own programs"
    )

    def run(self) -> int:
        """Print the key on standard output, what it is on standard error; return 0."""
        secret, key = new_key(
            self.tenant,
            weight=self.weight,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_jobs=self.max_jobs,
            max_priority=self.max_priority,
            is_operator=self.operator,
        )
        add_key(self.file, key)
        told = f"key {key.key_id} of tenant {key.tenant!r}, shown this once:"
        print(f"stepserve: {told}", file=sys.stderr, flush=True)
        print(secret)
        return 0


class KeysList(BaseSettings):
    """List the API keys of FILE: whose they are and what they may; never the keys themselves."""

    model_config = FROM_ENVIRONMENT

    file: CliPositionalArg[Path] = Field(description="where the keys are")
    as_json: bool = Field(False, description="print JSON, for programs")

    def run(self) -> int:
        """Print a table, or with --json one line; return 0."""
        keys = read_keys(self.file)
        if self.as_json:
            shown = [key.model_dump(exclude={"sha256"}) for key in keys]
            print(json.dumps({"keys": shown}), flush=True)
            return 0
        print_rows(COLUMNS, map(_row, keys))
        return 0


class KeysRemove(BaseSettings):
    """Take an API key out of FILE. Schedulers refuse it within a second; its jobs go on."""

    model_config = FROM_ENVIRONMENT

    file: CliPositionalArg[Path] = Field(description="where the keys are")
    key_id: CliPositionalArg[str] = Field(description="its name, as stepserve keys list tells it")

    def run(self) -> int:
        """Remove it; return 0."""
        remove_key(self.file, self.key_id)
        print(f"stepserve: key {self.key_id} is removed", file=sys.stderr)
        return 0


def _row(key: ApiKey) -> tuple[str, ...]:
    bounds = (key.requests_per_minute, key.tokens_per_minute, key.max_jobs)
    tenant = f"{key.tenant} (operator)" if key.is_operator else key.tenant
    weight = "" if key.weight is None else f"{key.weight:g}"
    shown = [str(bound) if bound else "" for bound in bounds]
    return (key.key_id, tenant, weight, *shown, str(key.max_priority), key.created[:10])
