"""``stepserve up``: Redis, schedulers and workers on this machine, as separate processes."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from scheduler_svc.access.key_file import read_keys
from scheduler_svc.settings import ApiSettings, FaultSettings, LaneSettings, QueueSettings
from stepserve.commands.up_options import ServingOptions, WorkerOptions
from stepserve.local.directories import check_directory
from stepserve.local.processes import Service, Stopped, Supervisor, check_port, is_free
from stepserve.local.starting import Starting
from stepserve.metrics.settings import MetricsSettings
from stepserve.modelfiles.sources import ModelSource, model_sources
from stepserve.process.command_line import flag
from stepserve.process.extras import require, require_local
from stepserve.process.stopping import stop_signals
from stepserve.process.tracing import TracingSettings
from stepserve.tls.fleet_settings import FleetSettings
from stepserve.tls.redis import RedisSettings

# Of the memory that is available, for the KV caches of all workers on a CPU.
CPU_MEMORY_FRACTION = 0.3
CORES_FOR_ROLES_APART = 4
DEFAULT_HTTP_PORT = 8000

Role = Literal["all", "api", "lane"]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the services are told and others are not: where Redis is, with its password, and the
    file of the fleet's token.
    """

    redis_url: str
    fleet_token_file: str

    @property
    def environment(self) -> dict[str, str]:
        """No flag, since others can read command lines; and all that could be said besides."""
        others = {f"STEPSERVE_{name.upper()}": "" for name in RedisSettings.model_fields}
        return {**others, "STEPSERVE_HEALTH_PORT": "", "STEPSERVE_REDIS_URL": self.redis_url}


class Up(
    ServingOptions,
    WorkerOptions,
    LaneSettings,
    QueueSettings,
    FaultSettings,
    ApiSettings,
    MetricsSettings,
    TracingSettings,
):
    """Serve a model, or several, on this machine until SIGINT or SIGTERM.

    Starts a real Redis (its data survives a restart), schedulers and workers, restarts
    what dies, and prints `ready grpc=HOST:PORT http=HOST:PORT model=NAME[,NAME]` when a job can
    be submitted. Several models need memory for all of them: on one GPU give each worker its
    share with --memory-fraction.
    """

    @model_validator(mode="after")
    def _has_models(self) -> Self:
        if self.model:
            _ = self._sources
        return self

    @model_validator(mode="after")
    def _has_ports(self) -> Self:
        if self.port + self.schedulers > 65536:
            raise ValueError(f"there are no {self.schedulers} ports from {self.port} on")
        if (last := max(self._metrics_ports(), default=0)) > 65535:
            raise ValueError(f"--metrics-port: there is no port {last} for the last process")
        if (self.http_port or 0) + self.schedulers > 65536:
            raise ValueError(f"there are no {self.schedulers} ports from {self.http_port} on")
        asked = self._asked_ports()
        if self.metrics_host in ("", self.host):
            asked += self._metrics_ports()
        if twice := {port for port in asked if asked.count(port) > 1}:
            raise ValueError(f"port {min(twice)} is asked for twice: for gRPC, HTTP or metrics")
        return self

    def run(self) -> int:
        """Serve; return the exit status."""
        require_local("up")
        self._check()
        starting = Starting(is_silent=not self.progress)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            token_file = stack.enter_context(self._fleet_token())
            redis_url, revive_redis = stack.enter_context(self._redis(starting))
            supervisor = stack.enter_context(Supervisor(stop))
            with suppress(Stopped):
                self._start(supervisor, Shared(redis_url, token_file), starting)
                supervisor.watch(revive_redis)
            starting.stop()
        # A program that takes any port does with the directory what it likes.
        is_kept = self.port and not self.redis_address()
        starting.stopped(self._kept_directory if is_kept else None)
        return supervisor.status()

    def _start(self, supervisor: Supervisor, shared: Shared, starting: Starting) -> None:
        """Start all services and say where they are. Raises Stopped, ServiceFailed."""
        given = ", ".join(f"{model.name} from {model.source}" for model in self._sources)
        each = " each" * (len(self._sources) > 1)
        names = ", ".join(model.name for model in self._sources)
        workers_told = f"({_count(self.workers, 'worker')}{each})"
        starting.begin(f"loading {given} {workers_told}", again=f"loading {names}")
        workers = [supervisor.start(self._worker(i, shared)) for i in range(self._num_workers)]
        addresses = [worker.wait_ready(starting.goes_on)["worker"] for worker in workers]
        starting.begin(f"starting {_count(self.schedulers, 'scheduler')}")
        roles: tuple[Role, ...] = ("lane", "api") if self._is_apart else ("all",)
        of_roles = [
            [
                supervisor.start(self._scheduler(role, i, shared, addresses))
                for i in range(self.schedulers)
            ]
            for role in roles
        ]
        # Those of the last role serve the clients.
        *_, ready = [
            [child.wait_ready(starting.goes_on) for child in children] for children in of_roles
        ]
        target = ready[0]["grpc"]
        print(f"ready {_addresses(ready[0])} model={ready[0]['model']}", flush=True)
        for other in ready[1:]:
            print(f"also {_addresses(other)}", flush=True)
        for child in (*chain.from_iterable(of_roles), *workers):
            if metrics := child.fields.get("metrics"):
                print(f"also metrics={metrics} of {child.service.name}", flush=True)
        one_of = f" --model {self._sources[0].name}" * (len(self._sources) > 1)
        tls = " --tls-ca FILE" * bool(self.tls_cert)
        key = " --api-key KEY" * bool(self.api_keys_file)
        asked = f'stepserve generate "Once upon a time" --target {target}'
        starting.end(f"try: {asked}{one_of}{tls}{key}")

    def _metrics_ports(self) -> range:
        """Return the ports for metrics: of schedulers that serve clients, of others, of workers."""
        count = self.schedulers * (1 + self._is_apart) + self._num_workers
        first = self.metrics_port or 0
        return range(first, first + count) if first else range(0)

    def _metrics(self, group: int, number: int) -> list[str]:
        """Return the flags that let a process tell of itself.

        ``group``: 0 for the schedulers that serve clients, 1 for those that do not, 2 for workers.
        """
        if self.metrics_port is None:
            return []
        before = self.schedulers * (group if self._is_apart else min(group, 1))
        ports = self._metrics_ports()
        port = ports[before + number] if ports else 0
        host = flag("metrics_host", self.metrics_host or self.host)
        return [host, flag("metrics_port", port), flag("metrics_prefix", self.metrics_prefix)]

    def _asked_ports(self) -> list[int]:
        """Return the ports that are asked for; none where any will do."""
        firsts = (self.port, self.http_port if self.http else 0)
        return [first + i for first in firsts if first for i in range(self.schedulers)]

    def _http_port(self, number: int) -> int:
        """Return the port for HTTP of a scheduler, 0 for any."""
        if self.http_port is not None:
            return self.http_port and self.http_port + number
        port = DEFAULT_HTTP_PORT + number
        is_ours = port in (*self._asked_ports(), *self._metrics_ports())
        return port if self.port and not is_ours and is_free(self.host, port) else 0

    @contextmanager
    def _redis(self, starting: Starting) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield where Redis is, and what brings it back when it has died."""
        if address := self.redis_address():
            yield address, bool
            return
        from scheduler_svc.queue.embedded import EmbeddedRedis

        with self._directory() as directory:
            starting.begin(f"starting Redis, which keeps the jobs in {directory}")
            with EmbeddedRedis.start(directory, self.durability) as redis:
                yield redis.url, redis.ensure_running

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        if (kept := self._kept_directory) is not None:
            yield kept
        else:
            with tempfile.TemporaryDirectory(prefix="stepserve-") as directory:
                yield Path(directory)

    @property
    def _kept_directory(self) -> Path | None:
        """Where the jobs stay; None where any port means that nobody could find them again."""
        if self.data_dir:
            return Path(self.data_dir)
        if self.port == 0:
            return None
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return state / "stepserve" / f"up-{self.port}"

    def _check(self) -> None:
        """Raise StepserveError for what can be seen to be in the way before anything is started.

        To start takes a while; others would be let in meanwhile, or half of it would run.
        """
        for port in self._asked_ports():
            check_port(self.host, port)
        for port in self._metrics_ports():
            check_port(self.metrics_host or self.host, port)
        self._check_access()
        self._check_models()
        if self.data_dir:
            check_directory(Path(self.data_dir), "--data-dir", mode=0o700)
        for name in ("record_dir", "record_events_dir", "record_stages_dir"):
            if path := getattr(self, name):
                check_directory(Path(path), f"--{name.replace('_', '-')}")
        if self.otlp_endpoint:
            require("traces", "--otlp-endpoint", "opentelemetry")

    def _check_access(self) -> None:
        """Raise StepserveError where others would be let in, or a file or address is of no use."""
        if address := self.redis_address():
            from scheduler_svc.queue.address import parse_address

            parse_address(address)
        self.check_host(self.host)
        self.tls_files.read()
        self.fleet_files.read()
        if self.api_keys_file:
            read_keys(Path(self.api_keys_file))

    def _check_models(self) -> None:
        """Raise StepserveError where a model can't be served, as far as that is seen at once."""
        # Not above: it knows the hub's library, which a client's installation lacks.
        from stepserve.modelfiles.presence import check_source

        for model in self._sources:
            check_source(model.source)

    @contextmanager
    def _fleet_token(self) -> Iterator[str]:
        """Yield the file of what schedulers show to workers: nobody else here drives them."""
        if self.fleet_token_file:
            yield self.fleet_token_file
            return
        with tempfile.TemporaryDirectory(prefix="stepserve-fleet-") as directory:
            path = Path(directory) / "token"
            path.touch(0o600)
            path.write_text(secrets.token_urlsafe(32))
            yield str(path)

    @property
    def _sources(self) -> tuple[ModelSource, ...]:
        """The models. Raises ValueError where two can't be told apart."""
        return model_sources(self.model, self.model_name)

    @property
    def _num_workers(self) -> int:
        """Of all models; the first model's come first."""
        return self.workers * len(self.model)

    def _worker(self, number: int, shared: Shared) -> Service:
        model = self._sources[number // self.workers]
        flags = self._flags(
            "attention", "batching", "block_size", "num_blocks",
            "max_batch_size", "max_step_tokens", "max_context", "dtype", "device", "kernels",
            "num_threads", "launch_ahead", "cuda_graphs", "pipeline_stages", "tensor_parallel",
            *(name for name in FleetSettings.model_fields if name != "fleet_token_file"),
        )  # fmt: skip
        flags.append(f"--fleet-token-file={shared.fleet_token_file}")
        if self.fleet_cert:
            flags.append("--health-port=0")
        if self.record_stages_dir:
            flags.append(f"--record-stages-dir={Path(self.record_stages_dir) / str(number)}")
        if (fraction := self._memory_fraction) is not None:
            flags.append(f"--memory-fraction={fraction:.4f}")
        serving = ["--host=127.0.0.1", "--port=0", *self._metrics(2, number)]
        named = [flag("model", model.source), flag("model_name", model.name)]
        # A port that is meant for the schedulers' health.
        environment = {"STEPSERVE_HEALTH_PORT": ""}
        command = ["worker_svc", *named, *flags, *serving]
        return Service(f"worker {number}", command, environment)

    @property
    def _memory_fraction(self) -> float | None:
        """Return each worker's share of the memory; None where it may choose."""
        if self.device == "cpu" and self._num_workers > 1:
            # They look at the free memory at the same moment; each takes its part of that.
            return (self.memory_fraction or CPU_MEMORY_FRACTION) / self._num_workers
        return self.memory_fraction

    @property
    def _is_apart(self) -> bool:
        if self.roles_apart == "auto":
            return len(os.sched_getaffinity(0)) >= CORES_FOR_ROLES_APART * self.schedulers
        return self.roles_apart == "yes"

    def _scheduler(self, role: Role, number: int, shared: Shared, addresses: list[str]) -> Service:
        own = ("fleet_token_file", "health_port")
        kinds = (LaneSettings, QueueSettings, FaultSettings, ApiSettings)
        settings = chain.from_iterable(kind.model_fields for kind in kinds)
        flags = self._flags(
            "durability", *TracingSettings.model_fields,
            *(name for name in settings if name not in own),
        )  # fmt: skip
        flags.append(f"--fleet-token-file={shared.fleet_token_file}")
        models = [flag("model", f"{model.name}={model.source}") for model in self._sources]
        if role == "lane":
            name, serving = f"lane {number}", ["--host=127.0.0.1", "--port=0"]
        else:
            port = self.port + number if self.port else 0
            name = f"scheduler {number}"
            serving = [f"--host={self.host}", f"--port={port}", "--wait-for-worker"]
            if self.http:
                serving.append(f"--http-port={self._http_port(number)}")
            if self.health_port is not None or self.tls_cert:
                health_port = self.health_port + number if self.health_port else 0
                serving.append(f"--health-port={health_port}")
        serving += self._metrics(int(role == "lane"), number)
        return Service(
            name,
            ["scheduler_svc", f"--roles={role}", *models, *flags, *serving,
             f"--workers={','.join(addresses)}"],
            shared.environment,
        )  # fmt: skip

    def _flags(self, *names: str) -> list[str]:
        values = ((name, getattr(self, name)) for name in names)
        return [flag(name, value) for name, value in values if value not in (None, "")]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _addresses(ready: Mapping[str, str]) -> str:
    """Return where a scheduler serves, as its line and ours say it."""
    return " ".join(f"{name}={ready[name]}" for name in ("grpc", "http") if name in ready)
