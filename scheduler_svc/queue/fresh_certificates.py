"""Connections to Redis over TLS that show, and believe, what the files hold when they are made."""

from __future__ import annotations

from typing import Any

from redis.asyncio import SSLConnection

from stepserve.tls.watched import WatchedFiles


class FreshCertificates(SSLConnection):
    """redis-py's, which would go on with the certificates of its first connection."""

    _files: WatchedFiles | None = None

    def _connection_arguments(self) -> Any:
        tls = self.ssl_context
        if self._files is None:
            paths = (tls.certfile, tls.keyfile, tls.ca_certs)
            self._files = WatchedFiles([path or "" for path in paths])
        if self._files.look():
            tls.context = None
        return super()._connection_arguments()
