"""The worker's settings: flags, or ``STEPSERVE_*`` environment variables. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from stepserve.metrics.settings import MetricsSettings
from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.choices import Attention, Batching, Device, Dtype, KernelSet
from stepserve.tls.fleet_settings import FleetSettings
from stepserve.tls.settings import InsecureSettings

# Counts travel as 32-bit integers.
MAX_INT = 2**31 - 1


class WorkerSettings(FleetSettings, InsecureSettings, MetricsSettings):
    """Own the weights and the paged KV cache; execute the steps that a scheduler commands."""

    model_config = FROM_ENVIRONMENT

    model: str = Field(description="checkpoint directory or Hugging Face id")
    model_name: str = Field("", description="name to serve it under; default: its last part")
    host: str = Field("127.0.0.1", description="address to serve gRPC on")
    port: int = Field(50061, ge=0, le=65535, description="port to serve gRPC on; 0: any free one")
    device: Device = Field("auto", description="auto: cuda if there is one")
    dtype: Dtype = Field(
        "auto", description="type computed in; auto: the checkpoint's on cuda, float32 on cpu"
    )
    kernels: KernelSet = Field(
        "auto", description="auto: triton on cuda, compiled CPU kernels elsewhere"
    )
    attention: Attention = Field(
        "paged",
        description="paged: every row's context is read where its blocks lie, nothing is padded; "
        "grouped: rows of equal lengths are gathered and attended to together; "
        "padded: the whole step is a rectangle, each row as long as the longest",
    )
    batching: Batching = Field(
        "continuous",
        description="static, with --attention padded: the rectangle keeps a row for each sequence "
        "that has ended until none lives any more, as transformers' generate does",
    )
    block_size: int = Field(16, ge=1, le=1024, description="tokens that a block of KV cache holds")
    num_blocks: int | None = Field(
        None, ge=1, description="blocks in the KV cache; default: what the free memory holds"
    )
    memory_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="cuda: share of the GPU's memory to be used in all, default 0.9; "
        "cpu: share of the available memory for the KV cache, default 0.3",
    )
    max_batch_size: int = Field(64, ge=1, le=4096, description="sequences resident at most")
    max_step_tokens: int = Field(2048, ge=1, le=MAX_INT, description="tokens in a step at most")
    max_context: int | None = Field(
        None,
        ge=2,
        le=MAX_INT,
        description="tokens in a sequence at most; default: what the model is made for; "
        "more is possible, with a warning",
    )
    max_kept_reports: int = Field(
        64, ge=1, le=MAX_INT, description="reports kept for uncommitted steps"
    )
    launch_ahead: int | None = Field(
        None,
        ge=0,
        le=8,
        description="steps launched before the tokens of the step before are read, beside one "
        "for each further pipeline stage; "
        "default: 2 on cuda, where the device would wait for the host; 0 on cpu",
    )
    cuda_graphs: bool = Field(
        True,
        description="cuda, with --attention paged: capture steps of common sizes as graphs; "
        "without them the host launches every kernel of every step, for debugging",
    )
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads to compute with; default: torch's choice"
    )
    pipeline_stages: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that have the model's layers one after another, each on a GPU of "
        "its own; steps run through them concurrently",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that have each layer of a stage side by side, each on a GPU of its "
        "own; the number has to divide the attention heads and the columns of the MLP",
    )
    nodes: int | None = Field(
        None,
        ge=1,
        description="machines that the processes of one worker are spread over; each runs this "
        "command with the same settings; default: 1, or what a LeaderWorkerSet says",
    )
    node_rank: int | None = Field(
        None,
        ge=0,
        description="which of the --nodes this is, from 0, which serves gRPC; default: what a "
        "LeaderWorkerSet says",
    )
    rendezvous: str = Field(
        "", description="HOST:PORT of node 0 where the processes of all --nodes meet"
    )
    record_stages_dir: str = Field(
        "", description="write when each process computed which step into files of this directory"
    )
    reflection: bool = Field(True, description="serve gRPC reflection")

    def check_host(self) -> None:
        """Raise StepserveError where others than the fleet would reach the worker."""
        self.check_worker_host(self.host, insecure=self.insecure)

    def has_graphs(self, device_type: str) -> bool:
        """Whether steps on such a device are captured: the baselines read lengths on the host."""
        is_capturable = self.attention == "paged" and self.kernels != "torch"
        return self.cuda_graphs and device_type == "cuda" and is_capturable
