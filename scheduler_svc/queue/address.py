"""Where a shard's Redis is: one server, or whichever of several is the primary."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url

from scheduler_svc.queue.fresh_certificates import FreshCertificates
from stepserve.protocol.errors import StepserveError

Kind = Literal["server", "sentinel", "cluster"]
Host = tuple[str, int]

_SEVERAL = re.compile(r"^(rediss?)[+-](sentinel|cluster)://")
_DEFAULT_PORTS: dict[Kind, int] = {"sentinel": 26379, "cluster": 6379}
# Of a sentinel itself, which has a password of its own.
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")

_PROBLEM = (
    "the address of Redis is no redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH, "
    "redis+sentinel://HOST:PORT[,HOST:PORT]/SERVICE[/DB] or redis+cluster://HOST:PORT[,HOST:PORT]; "
    "special characters of a password are written as %XX"
)


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says.

    ``connection``: redis-py's options of a connection to a server, without its host and port
    where these are found out. ``hosts``: whom to ask for them: sentinels, or nodes of a cluster.
    ``service``: the name under which sentinels watch the servers.
    """

    kind: Kind
    connection_class: type[AbstractConnection]
    connection: dict[str, Any]
    hosts: tuple[Host, ...] = ()
    service: str = ""
    sentinel: dict[str, str] = field(default_factory=dict)


def parse_address(url: str) -> Address:
    """Raises StepserveError where it is none; what it says holds no part of a password."""
    try:
        _check_encoded(url)
        found = _SEVERAL.match(url)
        if found is None:
            return Address("server", *_options(url))
        scheme, kind = found.groups()
        return _several(cast(Kind, kind), f"{scheme}://{url[found.end() :]}")
    except ValueError:  # its text may hold a part of a password
        raise StepserveError(_PROBLEM) from None


def _check_encoded(url: str) -> None:
    """Raise ValueError where part of a password would be taken for a host, and be told."""
    parts = urlsplit(url)
    query, _, _ = parts.query.partition("=")  # a parameter's value may be anything
    if parts.scheme != "unix" and "@" in parts.path + query + parts.fragment:
        raise ValueError("a special character of the password is not written as %XX")


def _several(kind: Kind, url: str) -> Address:
    """Of a URL whose scheme is redis or rediss, and that names several hosts."""
    parts = urlsplit(url)
    user, at, names = parts.netloc.rpartition("@")
    service, _, db = parts.path.strip("/").partition("/")
    if kind == "cluster":  # it has one database
        service, db = "", service
    query = parse_qs(parts.query, keep_blank_values=True)
    sentinel = {name: query.pop(name)[0] for name in _SENTINEL_OPTIONS if name in query}
    is_whole = bool(service) == (kind == "sentinel") and (db or "0").isdigit()
    if not is_whole or (kind == "cluster" and int(db or 0)) or (sentinel and kind == "cluster"):
        raise ValueError("not of its kind")
    one = urlunsplit((parts.scheme, f"{user}{at}host", f"/{db}", urlencode(query, doseq=True), ""))
    connection_class, options = _options(one)
    del options["host"]
    hosts = tuple(_host(name, _DEFAULT_PORTS[kind]) for name in names.split(","))
    return Address(kind, connection_class, options, hosts, service, sentinel)


def _host(text: str, default_port: int) -> Host:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError("no host")
    return parts.hostname, parts.port or default_port


def _options(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    options: dict[str, Any] = dict(parse_url(url))
    kind = options.pop("connection_class", Connection)
    return FreshCertificates if issubclass(kind, SSLConnection) else kind, options
