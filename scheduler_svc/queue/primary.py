"""Who is the primary now, as the sentinels or a cluster's nodes say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.cluster import parse_cluster_slots
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from scheduler_svc.queue.address import Address, Host

# The nodes of each range of slots, as redis-py tells them.
Slots = Mapping[tuple[int, int], Any]

# One of them that does not answer must not take the time that a whole call has.
_ASK_TIMEOUT_S = 0.5


class Primary(Protocol):
    """Found out anew for every connection; ``find`` raises ConnectionError where nobody knows."""

    async def find(self) -> Host: ...

    async def close(self) -> None: ...


class BySentinels:
    """The servers of one name that sentinels watch; all keys are on each of them."""

    def __init__(self, address: Address) -> None:
        options = _asking(address)
        for name in ("username", "password"):
            options.pop(name, None)
            if value := address.sentinel.get(f"sentinel_{name}"):
                options[name] = value
        self._service = address.service
        self._sentinel = Sentinel([])  # type: ignore[no-untyped-call]
        self._sentinel.sentinels = [_client(address, host, options) for host in address.hosts]

    async def find(self) -> Host:
        try:
            host, port = await self._sentinel.discover_master(self._service)
        except MasterNotFoundError:  # whose text is a page long
            problem = f"no sentinel knows a primary of the name {self._service!r}"
            raise RedisConnectionError(problem) from None
        return str(host), int(port)

    async def close(self) -> None:
        await self._sentinel.aclose()


class ByCluster:
    """The node of a cluster that has the slot of the key, and so all keys of its hash tag."""

    def __init__(self, address: Address, key: str) -> None:
        self._address = address
        self._slot = key_slot(key.encode())
        self._given = address.hosts
        # Those known, whoever answered last first.
        self._nodes: dict[Host, Redis] = {}

    async def find(self) -> Host:
        problem = "no node of the cluster has the slot of this model"
        for host in dict.fromkeys((*self._nodes, *self._given)):
            try:
                slots = await self._ask(host)
            except (RedisError, OSError) as error:
                problem = f"{host[0]}:{host[1]}: {error}"
                continue
            if (owner := self._owner(slots)) is not None:
                await self._know(host, slots)
                return owner
        raise RedisConnectionError(problem)

    async def _ask(self, host: Host) -> Slots:
        ask: Callable[..., Awaitable[Any]] = self._node(host).execute_command
        # A node that does not know how it is called leaves its name out.
        return parse_cluster_slots(await ask("CLUSTER SLOTS"), current_host=host[0])

    def _owner(self, slots: Slots) -> Host | None:
        for (first, last), nodes in slots.items():
            if first <= self._slot <= last:
                return cast(Host, tuple(nodes["primary"]))
        return None

    async def _know(self, asked: Host, slots: Slots) -> None:
        """Remember all nodes there are, for when those that were given are gone."""
        named = {
            cast(Host, tuple(node))
            for nodes in slots.values()
            for node in (nodes["primary"], *nodes["replicas"])
        }
        known, self._nodes = self._nodes, {}
        for host in dict.fromkeys((asked, *sorted(named))):
            self._nodes[host] = known.pop(host) if host in known else self._client(host)
        for client in known.values():
            await client.aclose()

    def _node(self, host: Host) -> Redis:
        return self._nodes.get(host) or self._nodes.setdefault(host, self._client(host))

    def _client(self, host: Host) -> Redis:
        return _client(self._address, host, _asking(self._address))

    async def close(self) -> None:
        for client in self._nodes.values():
            await client.aclose()


def _asking(address: Address) -> dict[str, Any]:
    """Options of a client that only asks where the primary is."""
    options = {name: value for name, value in address.connection.items() if name != "db"}
    return {
        **options,
        "socket_timeout": _ASK_TIMEOUT_S,
        "socket_connect_timeout": _ASK_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _client(address: Address, host: Host, options: Mapping[str, Any]) -> Redis:
    """One that connects as those to the primary do."""
    pool = ConnectionPool(
        connection_class=address.connection_class, **{**options, "host": host[0], "port": host[1]}
    )
    return Redis.from_pool(pool)
