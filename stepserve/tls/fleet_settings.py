"""Settings of what schedulers and workers know each other by."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.tls.exposure import check_exposure
from stepserve.tls.identity import Identity
from stepserve.tls.token import Token

DEFAULT_NAME = "stepserve-worker"


class FleetSettings(BaseSettings):
    """The same files on both sides: a worker serves with them, a scheduler calls with them."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "between schedulers and workers"

    fleet_ca: str = Field(
        "",
        description="authority (PEM) of the fleet's certificates: schedulers believe no other "
        "worker, and a worker with a certificate answers no other scheduler",
    )
    fleet_cert: str = Field(
        "", description="this service's certificate chain (PEM); a worker serves TLS with it"
    )
    fleet_key: str = Field("", description="its key (PEM)")
    fleet_name: str = Field(
        DEFAULT_NAME, description="name that every worker's certificate is for, at any address"
    )
    fleet_token_file: str = Field(
        "", description="file of a secret that schedulers show to workers; read again"
    )

    @property
    def fleet_files(self) -> Identity:
        """The fleet's certificate, its key and its authority."""
        names = ("--fleet-cert", "--fleet-key", "--fleet-ca")
        return Identity(self.fleet_cert, self.fleet_key, self.fleet_ca, names)

    def token(self) -> Token | None:
        """Return the fleet's, None where there is none. Raises StepserveError."""
        return Token(self.fleet_token_file) if self.fleet_token_file else None

    def check_worker_host(self, host: str, *, insecure: bool) -> None:
        """Raise StepserveError where a worker must not be served there."""
        lacks = [] if self.fleet_cert else ["TLS"]
        if not self.fleet_token_file and not self.fleet_ca:
            lacks.insert(0, "token or certificate asked for")
        cure = "--fleet-ca, --fleet-cert and --fleet-key"
        check_exposure(host, lacks, insecure=insecure, cure=cure)
