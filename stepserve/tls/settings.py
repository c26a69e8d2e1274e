"""Settings of keys, certificates and tokens: of what clients reach, and between our services."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.tls.exposure import check_exposure
from stepserve.tls.identity import Identity


class InsecureSettings(BaseSettings):
    """Whether to serve where others reach it, with nothing to keep them out."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "keys and TLS"

    insecure: bool = Field(
        False,
        description="serve beyond loopback also without keys or without TLS, where something "
        "else keeps others out; said in the log",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port to serve the same gRPC health on without TLS and nothing else, for "
        "probes that speak none; 0: any free one; default: none",
    )


class AccessSettings(InsecureSettings):
    """Who may come to what clients reach."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "keys and TLS"

    api_keys_file: str = Field(
        "",
        description="file of the API keys that are asked for over gRPC and HTTP, see stepserve "
        "keys add; read again when it changes; default: none is asked for",
    )
    tls_cert: str = Field(
        "", description="certificate chain (PEM) to serve gRPC and HTTP with; read again, too"
    )
    tls_key: str = Field("", description="its key (PEM)")
    tls_client_ca: str = Field(
        "", description="authority (PEM) whose certificate each client must show: mutual TLS"
    )

    @property
    def tls_files(self) -> Identity:
        """What clients are served with, and whom it believes; without a certificate no TLS."""
        names = ("--tls-cert", "--tls-key", "--tls-client-ca")
        return Identity(self.tls_cert, self.tls_key, self.tls_client_ca, names)

    def check_host(self, host: str) -> None:
        """Raise StepserveError where clients must not be served there."""
        lacks = [] if self.tls_cert else ["TLS"]
        if not self.api_keys_file and not self.tls_client_ca:
            lacks.insert(0, "API key asked for")
        cure = "--api-keys-file and --tls-cert with --tls-key"
        check_exposure(host, lacks, insecure=self.insecure, cure=cure)
