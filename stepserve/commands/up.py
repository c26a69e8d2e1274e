"""``stepserve up``: Redis, schedulers and workers on this machine, as separate processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from scheduler_svc.settings import ApiSettings, LaneSettings
from stepserve.local.processes import Service, Stopped, Supervisor, check_port
from stepserve.process.command_line import flag
from stepserve.process.extras import require_local
from stepserve.process.stopping import stop_signals
from stepserve.protocol.choices import Attention, Device, Dtype, KernelSet

# Of the memory that is available, for the KV caches of all workers on a CPU.
CPU_MEMORY_FRACTION = 0.3
CORES_FOR_ROLES_APART = 4

Role = Literal["all", "api", "lane"]


class Up(LaneSettings, ApiSettings):
    """Serve a model on this machine until SIGINT or SIGTERM.

    Starts a real Redis (its data survives a restart), schedulers and workers, restarts
    what dies, and prints `ready grpc=HOST:PORT model=NAME` when a job can be submitted.
    """

    model: str = Field(description="checkpoint directory or Hugging Face id")
    model_name: str = Field("", description="name to serve it under; default: its last part")
    host: str = Field("127.0.0.1", description="address to serve gRPC on")
    port: int = Field(50051, ge=0, le=65535, description="port to serve gRPC on; 0: any free one")
    workers: int = Field(1, ge=1, le=64, description="worker processes")
    schedulers: int = Field(1, ge=1, le=16, description="scheduler processes, on PORT, PORT+1, ...")
    roles_apart: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="serve clients and drive workers in processes of their own; auto: where there "
        "are 4 cores for each scheduler",
    )
    data_dir: str = Field(
        "", description="where Redis keeps the jobs; default: the user's state directory, by port"
    )
    redis_url: str = Field("", description="use this Redis instead of starting one")
    durability: Literal["local", "fsync"] = Field(
        "local", description="what a job survives: killed processes, or a host's crash"
    )
    attention: Attention = Field(
        "paged",
        description="paged: each row through its block table; grouped: rows of equal length "
        "together; padded: one rectangle, as long as the longest row",
    )
    block_size: int = Field(16, ge=1, description="tokens in a KV block")
    num_blocks: int | None = Field(None, ge=1, description="KV blocks; default: what memory holds")
    max_context: int | None = Field(
        None,
        ge=2,
        description="tokens in a sequence at most; default: what the model is made for; "
        "more is possible, with a warning",
    )
    launch_ahead: int | None = Field(
        None,
        ge=0,
        le=8,
        description="steps launched before the tokens of the one before are read; "
        "default: 2 on cuda, 0 on cpu",
    )
    cuda_graphs: bool = Field(
        True, description="on cuda, capture steps of common sizes as CUDA graphs"
    )
    dtype: Dtype = Field(
        "auto", description="what to compute in; auto: the checkpoint's on cuda, float32 on cpu"
    )
    device: Device = Field("auto", description="where to compute")
    kernels: KernelSet = Field(
        "auto", description="auto: triton on cuda, compiled CPU kernels on cpu"
    )
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of each worker, or of each process of one"
    )
    pipeline_stages: int = Field(
        1,
        ge=1,
        le=64,
        description="processes of each worker that have the model's layers one after another, "
        "each on a GPU of its own",
    )
    tensor_parallel: int = Field(
        1,
        ge=1,
        le=64,
        description="processes of each worker that share the heads and columns of each layer",
    )
    record_stages_dir: str = Field(
        "", description="write when each stage computed which step into this directory, by worker"
    )

    @model_validator(mode="after")
    def _has_ports(self) -> Self:
        if self.port + self.schedulers > 65536:
            raise ValueError(f"there are no {self.schedulers} ports from {self.port} on")
        return self

    def run(self) -> int:
        """Serve; return the exit status."""
        require_local("up")
        # Before anything is started, which takes a while.
        for port in self._scheduler_ports():
            check_port(self.host, port)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            redis_url, revive_redis = stack.enter_context(self._redis())
            supervisor = stack.enter_context(Supervisor(stop))
            with suppress(Stopped):
                self._start(supervisor, redis_url)
                supervisor.watch(revive_redis)
            return supervisor.status()

    def _start(self, supervisor: Supervisor, redis_url: str) -> None:
        """Start all services and say where they are. Raises Stopped, ServiceFailed."""
        workers = [supervisor.start(self._worker(i)) for i in range(self.workers)]
        addresses = [worker.wait_ready()["worker"] for worker in workers]
        roles: tuple[Role, ...] = ("lane", "api") if self._is_apart else ("all",)
        of_roles = [
            [
                supervisor.start(self._scheduler(role, i, redis_url, addresses))
                for i in range(self.schedulers)
            ]
            for role in roles
        ]
        # Those of the last role serve the clients.
        *_, ready = [[child.wait_ready() for child in children] for children in of_roles]
        print(f"ready grpc={ready[0]['grpc']} model={ready[0]['model']}", flush=True)
        for other in ready[1:]:
            print(f"also grpc={other['grpc']}", flush=True)

    def _scheduler_ports(self) -> list[int]:
        """Return the ports that are asked for; none where any will do."""
        return [self.port + i for i in range(self.schedulers)] if self.port else []

    @contextmanager
    def _redis(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Yield where Redis is, and what brings it back when it has died."""
        if self.redis_url:
            yield self.redis_url, bool
            return
        from scheduler_svc.queue.embedded import EmbeddedRedis

        with (
            self._directory() as directory,
            EmbeddedRedis.start(directory, self.durability) as redis,
        ):
            yield redis.url, redis.ensure_running

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        if self.data_dir:
            yield Path(self.data_dir)
        elif self.port == 0:
            # Any port means nobody could find the data again: it goes when we go.
            with tempfile.TemporaryDirectory(prefix="stepserve-") as directory:
                yield Path(directory)
        else:
            state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
            yield state / "stepserve" / f"up-{self.port}"

    def _worker(self, number: int) -> Service:
        flags = self._flags(
            "model", "model_name", "attention", "batching", "block_size", "num_blocks",
            "max_batch_size", "max_step_tokens", "max_context", "dtype", "device", "kernels",
            "num_threads", "launch_ahead", "cuda_graphs", "pipeline_stages", "tensor_parallel",
        )  # fmt: skip
        if self.record_stages_dir:
            flags.append(f"--record-stages-dir={Path(self.record_stages_dir) / str(number)}")
        if self.device == "cpu" and self.workers > 1:
            # They look at the free memory at the same moment; each takes its part of that.
            flags.append(f"--memory-fraction={CPU_MEMORY_FRACTION / self.workers:.4f}")
        return Service(f"worker {number}", ["worker_svc", *flags, "--host=127.0.0.1", "--port=0"])

    @property
    def _is_apart(self) -> bool:
        if self.roles_apart == "auto":
            return len(os.sched_getaffinity(0)) >= CORES_FOR_ROLES_APART * self.schedulers
        return self.roles_apart == "yes"

    def _scheduler(self, role: Role, number: int, redis_url: str, addresses: list[str]) -> Service:
        flags = self._flags(
            "model", "model_name", "durability",
            *LaneSettings.model_fields, *ApiSettings.model_fields,
        )  # fmt: skip
        if role == "lane":
            name, serving = f"lane {number}", ["--host=127.0.0.1", "--port=0"]
        else:
            port = self.port + number if self.port else 0
            name = f"scheduler {number}"
            serving = [f"--host={self.host}", f"--port={port}", "--wait-for-worker"]
        return Service(
            name,
            ["scheduler_svc", f"--roles={role}", *flags, *serving,
             f"--workers={','.join(addresses)}"],
            # Not a flag: it may hold a password, and command lines can be read by others.
            {"STEPSERVE_REDIS_URL": redis_url},
        )  # fmt: skip

    def _flags(self, *names: str) -> list[str]:
        values = ((name, getattr(self, name)) for name in names)
        return [flag(name, value) for name, value in values if value not in (None, "")]
