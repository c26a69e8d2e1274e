"""What schedulers and workers know each other by: a certificate of the fleet's, or a token."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from stepserve.protocol.errors import StepserveError
from stepserve.tls.client import channel_credentials
from stepserve.tls.fleet_settings import DEFAULT_NAME, FleetSettings
from stepserve.tls.token import Token

AUTHORIZATION = "authorization"


class FleetCaller:
    """A scheduler as workers know it. The files are read when it is made."""

    def __init__(self, settings: FleetSettings | None = None) -> None:
        """Raise StepserveError where the files are of no use. Without settings nothing is shown."""
        self._name = DEFAULT_NAME
        self._token: Token | None = None
        self._credentials: grpc.ChannelCredentials | None = None
        if settings is None:
            return
        if settings.fleet_cert and not settings.fleet_ca:
            raise StepserveError("--fleet-cert needs --fleet-ca at a scheduler")
        self._name = settings.fleet_name
        self._token = settings.token()
        if settings.fleet_ca:
            self._credentials = channel_credentials(
                settings.fleet_ca, settings.fleet_cert, settings.fleet_key
            )

    def channel(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """Return a channel to the worker at ``address``."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        # Workers come and go at any address: what they are is their certificate's name.
        named = [*options, ("grpc.ssl_target_name_override", self._name)]
        return grpc.aio.secure_channel(address, self._credentials, options=named)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        if self._token is None:
            return ()
        return ((AUTHORIZATION, self._token.authorization),)
