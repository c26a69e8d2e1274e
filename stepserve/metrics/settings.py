"""The settings of whatever process has metrics."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT


class MetricsSettings(BaseSettings):
    """Where metrics are served, and how they are called."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "metrics"

    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port to serve /metrics (Prometheus), /livez and /readyz on, over HTTP; "
        "0: any free one; default: none. stepserve up gives each process one of its own, from "
        "this one on",
    )
    metrics_host: str = Field("", description="address to serve them on; default: that of --host")
    metrics_prefix: str = Field(
        "stepserve",
        pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$",
        description="what stands before the colon of a metric's name; vllm: what both have is "
        "called as vLLM calls it, for dashboards that were made for that",
    )
