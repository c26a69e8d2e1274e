"""A client's side of TLS."""

from __future__ import annotations

import grpc

from stepserve.tls.identity import Identity


def channel_credentials(
    authority: str = "", certificate: str = "", key: str = ""
) -> grpc.ChannelCredentials:
    """Return what a channel speaks TLS by, of PEM files.

    ``authority`` signs the servers that are believed; without one the system's do. With a
    ``certificate`` and its ``key`` the client shows who it is. The files are read now: a new
    channel has what they hold then. Raises StepserveError where they are of no use.
    """
    material = Identity(certificate, key, authority).read()
    return grpc.ssl_channel_credentials(
        material.authority or None, material.key or None, material.certificate or None
    )
