"""The oracle worker's command line."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from stepserve.metrics.settings import MetricsSettings
from worker_svc.settings import MAX_INT


class OracleWorkerSettings(MetricsSettings):
    """Serve as a worker does, without a model: each next token is a hash of the context.

    All of a worker but its device is real: protocol, exactly-once ledger, residents, reports,
    health. Its cache is real, too, read through the block tables that the scheduler commands, but
    holds a number for each token. So what a job has to give is known without running it
    (stepserve_bench/oracle_worker/oracle.py), and one machine can run dozens of workers.
    """

    # Not a worker's variables: what is set for real workers is not meant for this one.
    model_config = SettingsConfigDict(
        env_prefix="STEPSERVE_ORACLE_WORKER_", env_ignore_empty=True, frozen=True
    )

    model: str = Field(description="checkpoint directory; its config.json says the vocabulary")
    model_name: str = Field("", description="name to serve it under; default: its last part")
    host: str = Field("127.0.0.1", description="address to serve gRPC on")
    port: int = Field(0, ge=0, le=65535, description="port to serve gRPC on; 0: any free one")
    step_ms: float = Field(20.0, ge=0, description="how long the device takes for a step")
    num_blocks: int = Field(4096, ge=1, description="blocks of 16 tokens in the KV cache")
    max_batch_size: int = Field(64, ge=1, le=4096, description="sequences resident at most")
    max_step_tokens: int = Field(2048, ge=1, le=MAX_INT, description="tokens in a step at most")
    max_context: int | None = Field(
        None, ge=2, le=MAX_INT, description="tokens in a sequence at most; default: the model's"
    )
    max_kept_reports: int = Field(64, ge=1, description="reports kept for uncommitted steps")
    launch_ahead: int = Field(
        0, ge=0, le=8, description="steps launched before the tokens of the step before are read"
    )
    usage_out: str = Field(
        "", description="at the end, write how long the device was at work into this JSON file"
    )
