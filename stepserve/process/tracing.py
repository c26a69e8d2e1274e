"""The setting of whatever process tells of jobs in traces."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT


class TracingSettings(BaseSettings):
    """Where traces go."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "traces"

    otlp_endpoint: str = Field(
        "",
        description="send a trace of each job, by OpenTelemetry, to this collector: "
        "http://HOST:4317 for gRPC, http://HOST:4318 for HTTP; default: none, or what "
        "OTEL_EXPORTER_OTLP_ENDPOINT says; needs stepserve[traces]",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value[:200]!r} is not http://HOST:PORT")
        return value
