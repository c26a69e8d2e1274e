"""The scheduler's settings: flags, or ``STEPSERVE_*`` environment variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class SchedulerSettings(BaseSettings):
    """Take jobs over gRPC, keep them in Redis, and plan every step of the workers."""

    model_config = SettingsConfigDict(env_prefix="STEPSERVE_", frozen=True, extra="ignore")

    model: str = Field(description="checkpoint directory or Hugging Face id (for the tokenizer)")
    model_name: str = Field("", description="name to serve it under; default: its last part")
    host: str = Field("127.0.0.1", description="address to serve gRPC on")
    port: int = Field(50051, ge=0, le=65535, description="port to serve gRPC on; 0: any free one")
    workers: str = Field(
        "", description="worker addresses, HOST:PORT[,HOST:PORT]; a name stands for all its hosts"
    )
    roles: Literal["all", "api", "lane"] = Field("all", description="what this process does")
    redis_url: str = Field("", description="redis://HOST:PORT/DB or unix:///PATH of a real Redis")
    durability: Literal["local", "fsync", "replicated"] = Field(
        "local", description="what a job survives: killed processes, a host's crash, a failover"
    )
    max_batch_size: int = Field(64, ge=1, le=4096, description="sequences in a step at most")
    max_step_tokens: int = Field(
        2048, ge=1, description="tokens in a step at most; long prompts are split into chunks"
    )
    max_steps_in_flight: int = Field(2, ge=1, le=8, description="steps planned ahead of reports")
    max_queued_jobs: int = Field(10_000, ge=1, description="queued jobs at most, then refusal")
    retention_s: float = Field(86_400, gt=0, description="how long an ended job can be read")
    lease_ttl_s: float = Field(5.0, ge=0.5, description="a silent scheduler loses its workers then")
    step_timeout_s: float = Field(60.0, gt=0, description="a worker silent for so long is dead")
    disconnect_grace_s: float = Field(5.0, ge=0, description="before cancel_on_disconnect acts")
    wait_for_worker: bool = Field(False, description="say ready only once a worker is driven")
    record_dir: str = Field("", description="write what each step did here, without any text")
    record_events_dir: str = Field(
        "", description="write what each lane's core was told and wanted here, without any text"
    )
    reflection: bool = Field(True, description="serve gRPC reflection")

    @field_validator("workers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in filter(None, value.split(",")):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address!r} is not HOST:PORT")
        return value

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """The addresses as given, not yet resolved."""
        return tuple(filter(None, self.workers.split(",")))
