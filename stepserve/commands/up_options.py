"""What ``stepserve up`` starts, and how: its own options, beside those of its schedulers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.modelfiles.sources import ModelList
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.choices import Attention, Device, Dtype, KernelSet
from stepserve.tls.redis import RedisSettings


class ServingOptions(RedisSettings):
    """The model, where it is served, and by what."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "model and service"

    model: ModelList = Field(
        min_length=1,
        description="checkpoint directory or Hugging Face id, or NAME=one of these; again for "
        "another model, which has workers and a queue of its own (variable: commas between)",
    )
    model_name: str = Field(
        "", description="name to serve the only model under; default: its last part"
    )
    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(50051, ge=0, le=65535, description="port to serve gRPC on; 0: any free one")
    http: bool = Field(True, description="serve OpenAI's HTTP as well")
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port to serve HTTP on; 0: any free one; default: 8000, or any free one "
        "where that is taken or --port is 0",
    )
    workers: int = Field(1, ge=1, le=64, description="worker processes of each model")
    schedulers: int = Field(1, ge=1, le=16, description="scheduler processes, on PORT, PORT+1, ...")
    roles_apart: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="serve clients and drive workers in processes of their own; auto: where there "
        "are 4 cores for each scheduler",
    )
    data_dir: str = Field(
        "",
        description="where Redis keeps the jobs; default: ~/.local/state/stepserve/up-PORT, with "
        "--port 0 a directory for this run alone",
    )
    durability: Literal["local", "fsync"] = Field(
        "local", description="what a job survives: killed processes, or a host's crash"
    )
    progress: bool = Field(True, description="tell on standard error what is being started")


class WorkerOptions(BaseSettings):
    """How workers compute."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "workers: memory and computing"

    attention: Attention = Field(
        "paged",
        description="paged: each row through its block table; grouped: rows of equal length "
        "together; padded: one rectangle, as long as the longest row",
    )
    block_size: int = Field(16, ge=1, description="tokens in a KV block")
    num_blocks: int | None = Field(
        None, ge=1, description="blocks of KV cache of each worker; default: what memory holds"
    )
    max_context: int | None = Field(
        None,
        ge=2,
        description="tokens in a sequence at most; default: what the model is made for; "
        "more is possible, with a warning",
    )
    launch_ahead: int | None = Field(
        None,
        ge=0,
        le=8,
        description="steps launched before the tokens of the one before are read; "
        "default: 2 on cuda, 0 on cpu",
    )
    cuda_graphs: bool = Field(
        True, description="on cuda, capture steps of common sizes as CUDA graphs"
    )
    dtype: Dtype = Field(
        "auto", description="what to compute in; auto: the checkpoint's on cuda, float32 on cpu"
    )
    device: Device = Field("auto", description="where to compute")
    kernels: KernelSet = Field(
        "auto", description="auto: triton on cuda, compiled CPU kernels on cpu"
    )
    memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cuda: share of the GPU's memory that each worker uses in all, default 0.9; "
        "cpu: share of the available memory for the KV caches of all workers, default 0.3",
    )
    num_threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of each process of a worker; default: torch's choice",
    )
    pipeline_stages: int = Field(
        1,
        ge=1,
        le=64,
        description="processes of each worker that have the model's layers one after another, "
        "each on a GPU of its own",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="processes of each worker that share the heads and columns of each layer",
    )
    record_stages_dir: str = Field(
        "", description="write when each stage computed which step into this directory, by worker"
    )
