"""Where Redis is, and by which certificates it is reached: of flags, or of files."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import quote, urlsplit

from pydantic import Field
from pydantic_settings import BaseSettings

from stepserve.process.variables import FROM_ENVIRONMENT
from stepserve.protocol.errors import StepserveError
from stepserve.tls.identity import Identity
from stepserve.tls.watched import read_secret


class RedisSettings(BaseSettings):
    """The address of Redis, which holds a password, and its certificates."""

    model_config = FROM_ENVIRONMENT
    HELP_GROUP: ClassVar[str] = "Redis"

    redis_url: str = Field(
        "",
        description="redis://[USER:PASSWORD@]HOST:PORT/DB or unix:///PATH of a real Redis, "
        "redis+sentinel://HOST:PORT[,…]/SERVICE/DB or redis+cluster://HOST:PORT[,…] of several, "
        "rediss… for TLS; with a password better in STEPSERVE_REDIS_URL or a file",
    )
    redis_url_file: str = Field("", description="file that holds it instead, as a Secret's")
    redis_ca: str = Field(
        "", description="authority (PEM) of its certificate; default: those of the system"
    )
    redis_cert: str = Field("", description="certificate (PEM) to show to Redis")
    redis_key: str = Field("", description="its key (PEM)")

    def redis_address(self) -> str:
        """Return the whole address, "" where none is given. Raises StepserveError.

        Certificates are a part of it, in redis-py's words.
        """
        url = self.redis_url
        if self.redis_url_file:
            if url:
                raise StepserveError("give --redis-url or --redis-url-file, not both")
            url = read_secret(self.redis_url_file, "the address of Redis in").decode().strip()
        names = ("--redis-cert", "--redis-key", "--redis-ca")
        files = Identity(self.redis_cert, self.redis_key, self.redis_ca, names)
        if not any(files.paths):
            return url
        if not url.startswith(("rediss:", "rediss+", "rediss-")):
            raise StepserveError("certificates for Redis need an address of rediss://...")
        files.read()
        parameters = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
        told = [
            f"{n}={quote(path)}" for n, path in zip(parameters, files.paths, strict=True) if path
        ]
        return url + ("&" if urlsplit(url).query else "?") + "&".join(told)
