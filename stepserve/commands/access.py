"""How a client command shows who it is, and whom it believes."""

from __future__ import annotations

from typing import ClassVar

import grpc
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.tls.client import channel_credentials


class ClientAccess(BaseSettings):
    """An API key, and certificates."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "service"

    api_key: SecretStr = Field(
        SecretStr(""),
        description="key that the service knows; better as STEPSERVE_API_KEY, since others on the "
        "machine can read command lines",
    )
    tls: bool = Field(
        False, description="speak TLS to a service whose certificate the system's authorities sign"
    )
    tls_ca: str = Field(
        "", description="authority (PEM) of the service's certificate; implies --tls"
    )
    tls_cert: str = Field("", description="certificate chain (PEM) to show to the service")
    tls_key: str = Field("", description="its key (PEM)")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what to speak TLS by, None for none. Raises StepserveError."""
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        return channel_credentials(self.tls_ca, self.tls_cert, self.tls_key)
