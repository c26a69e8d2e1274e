"""The scheduler's settings: flags, or ``STEPSERVE_*`` environment variables."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from scheduler_svc.order import Order, Policy
from stepserve.metrics.settings import MetricsSettings
from stepserve.modelfiles.sources import ModelList, ModelSource, model_sources
from stepserve.process.tracing import TracingSettings
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.choices import Batching, Durability, OnModelChange
from stepserve.tls.fleet_settings import FleetSettings
from stepserve.tls.redis import RedisSettings
from stepserve.tls.settings import AccessSettings

PROG = "stepserve scheduler"


class PlanningSettings(BaseSettings):
    """How jobs are ordered, and how steps are made of them: of every command that plans."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "order of jobs, and steps"

    batching: Batching = Field(
        "continuous",
        description="continuous: jobs join and leave at every step; "
        "static: a batch enters when the one before has left",
    )
    policy: Policy = Field(
        "fcfs",
        description="which waiting job goes first: the one that came first; the highest of "
        "waiting, priority and nearness of its end, weighted; or tenants by their weights",
    )
    wait_weight: float = Field(
        1.0, gt=0, description="priority policy: weight of a second of waiting"
    )
    remaining_weight: float = Field(
        0.5, ge=0, description="priority policy: weight of 1 / the expected number of tokens"
    )
    priority_weight: float = Field(
        2.0, ge=0, description="priority policy: weight of one point of a job's priority"
    )
    tenant_weights: str = Field(
        "", description="fair policy: TENANT=WEIGHT[,TENANT=WEIGHT]; 1 where not named"
    )
    enable_preemption: bool = Field(
        True,
        description="take running sequences out when blocks run out or a much more urgent job "
        "waits; without it nobody is let in for whom there might be no blocks later",
    )
    preemption_margin_s: float = Field(
        10.0,
        ge=0,
        description="priority policy: by how much, in seconds of waiting, a job has to be more "
        "urgent than one that runs to take its place",
    )
    prefix_caching: bool = Field(
        True, description="do not compute again what a block of the same tenant holds"
    )
    max_batch_size: int = Field(64, ge=1, le=4096, description="sequences in a step at most")
    target_batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences in a micro-batch of a pipeline before another one is opened; "
        "default: 32, or the stages' even share of max_batch_size where that is less",
    )
    max_step_tokens: int = Field(
        2048, ge=1, description="tokens in a step at most; long prompts are split into chunks"
    )
    target_step_ms: float = Field(
        0.0, ge=0, description="adapt the tokens of a step so that it takes this long; 0: do not"
    )
    max_steps_in_flight: int | None = Field(
        None,
        ge=1,
        le=8,
        description="steps planned ahead of reports; one more for each further stage of a "
        "pipeline; default: one more than the worker launches ahead (3 on cuda), at least 2",
    )

    @model_validator(mode="after")
    def _has_order(self) -> Self:
        _ = self.order
        return self

    @property
    def order(self) -> Order:
        """The policy and its weights. Raises ValueError where they are none."""
        return Order(
            policy=self.policy,
            wait_weight=self.wait_weight,
            remaining_weight=self.remaining_weight,
            priority_weight=self.priority_weight,
            tenant_weights=_weights(self.tenant_weights),
        )

    @property
    def preemption_margin(self) -> float:
        """By how much a rank must be lower to displace another; infinite: never.

        Only priorities make a job more urgent than those that came before it.
        """
        displaces = self.enable_preemption and self.policy == "priority"
        return self.preemption_margin_s if displaces else math.inf


class LaneSettings(PlanningSettings, FleetSettings):
    """What lanes do besides: with jobs that no worker can run, and what they write down."""

    HELP_GROUP: ClassVar[str] = "jobs that no worker can run, and records"

    on_model_change: OnModelChange = Field(
        "end",
        description="a job with output of a model that no worker has any more (new weights, "
        "another dtype): it waits for one for ever; ends with an error; or begins anew, "
        "and whoever follows it is told so",
    )
    stranded_grace_s: float = Field(
        30.0,
        ge=0,
        description="how long a job waits for a worker that can run it, while there are "
        "others, before it is ended, or begun anew",
    )

    metrics_tenants: int = Field(
        20,
        ge=0,
        le=1000,
        description="tenants that metrics name, those with a weight first, then as they come; "
        "all others are one",
    )
    record_dir: str = Field("", description="write what each step did here, without any text")
    record_events_dir: str = Field(
        "", description="write what was decided and why here, to be replayed; without any text"
    )


class ApiSettings(AccessSettings):
    """How clients are served, and what their streams look like."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "clients"

    stream_window_ms: float = Field(
        20.0,
        ge=0,
        description="tokens that come within so long are one event of a stream; an output's "
        "first token and its end are sent at once; 0: every token is",
    )
    disconnect_grace_s: float = Field(
        5.0,
        ge=0,
        description="how long a client that asked for cancel_on_disconnect may be away before its "
        "job is cancelled",
    )
    generation_config: Literal["auto", "none"] = Field(
        "auto",
        description="auto: what a request leaves open is as the model's generation_config.json "
        "says (temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens); none: it "
        "is as the API states",
    )
    max_connection_age_s: float = Field(
        0.0,
        ge=0,
        description="ask clients to connect anew after so long, so that schedulers that came "
        "since get their share; their streams go on; 0: never",
    )
    reflection: bool = Field(True, description="serve gRPC reflection")


class QueueSettings(BaseSettings):
    """How much is kept in Redis, and for how long."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "jobs that are kept"

    max_queued_jobs: int = Field(
        10_000, ge=1, description="jobs of a model that wait at most; then submits are refused"
    )
    retention_s: float = Field(86_400, gt=0, description="how long an ended job can be read")
    max_ended_jobs: int = Field(
        100_000, ge=0, description="ended jobs kept at most; the oldest go first"
    )
    max_ended_bytes: int = Field(
        2**30, ge=0, description="memory of Redis that ended jobs take at most; see docs/redis.md"
    )


class FaultSettings(BaseSettings):
    """When a process is taken for dead."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "faults"

    lease_ttl_s: float = Field(
        2.0,
        ge=0.5,
        description="a scheduler that is silent for so long loses its workers to others",
    )
    step_timeout_s: float = Field(
        60.0, gt=0, le=86_400, description="a worker whose step takes longer is dead, whatever step"
    )
    min_step_timeout_s: float = Field(
        2.0,
        gt=0,
        description="a worker whose step takes longer than this, and 10 times longer than "
        "the steps before it tell, is dead",
    )


class SchedulerSettings(
    LaneSettings,
    ApiSettings,
    QueueSettings,
    FaultSettings,
    RedisSettings,
    MetricsSettings,
    TracingSettings,
):
    """Take jobs over gRPC, keep them in Redis, and plan every step of the workers."""

    model: ModelList = Field(
        description="checkpoint directory or Hugging Face id (for the tokenizer), or NAME=one of "
        "these; again for another model (variable: commas between). The first one's part of Redis "
        "keeps files and batches"
    )
    model_name: str = Field(
        "", description="name to serve the only model under; default: its last part"
    )
    host: str = Field("127.0.0.1", description="address to serve on")
    port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port to serve gRPC on; 0: any free one; default: 50051, or with the role "
        "lane, which has nothing but its health to serve, none",
    )
    workers: str = Field(
        "", description="worker addresses, HOST:PORT[,HOST:PORT]; a name stands for all its hosts"
    )
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port to serve OpenAI's HTTP on, beside gRPC; 0: any free one; default: "
        "none, or with the role http, which serves nothing else, 8000",
    )
    roles: Literal["all", "api", "http", "lane"] = Field(
        "all",
        description="what this process does: api: serve clients over gRPC, and over HTTP where it "
        "has a port; http: over HTTP only; lane: drive workers; all: api and lane",
    )
    durability: Durability = Field(
        "local", description="what a job survives: killed processes, a host's crash, a failover"
    )
    wait_for_worker: bool = Field(False, description="say ready only once a worker is driven")

    @field_validator("workers")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in filter(None, value.split(",")):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{address!r} is not HOST:PORT")
        return value

    @model_validator(mode="after")
    def _has_models(self) -> Self:
        _ = self.sources
        return self

    @property
    def sources(self) -> tuple[ModelSource, ...]:
        """The models. Raises ValueError where there is none, or two can't be told apart."""
        return model_sources(self.model, self.model_name)

    @property
    def worker_addresses(self) -> tuple[str, ...]:
        """The addresses as given, not yet resolved."""
        return tuple(filter(None, self.workers.split(",")))


def _weights(text: str) -> dict[str, float]:
    weights = {}
    for item in filter(None, text.split(",")):
        tenant, _, weight = item.rpartition("=")
        try:
            weights[tenant] = float(weight)
        except ValueError:
            raise ValueError(f"--tenant-weights: {item!r} is not TENANT=WEIGHT") from None
    return weights
