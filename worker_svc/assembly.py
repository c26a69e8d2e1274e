"""From settings to a runner that is ready: the model, its kernels, and a cache that fits."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

import torch

from kvstore.cache import KVCache
from stepserve.process.version import own_version
from stepserve.protocol.errors import first_line
from stepserve.protocol.step import WorkerInfo
from worker_svc.assembled import Assembly
from worker_svc.cache_size import make_cache
from worker_svc.core.limits import Limits
from worker_svc.errors import WorkerUnavailable
from worker_svc.kernels import KernelsUnavailable, select
from worker_svc.machine.progress import counted
from worker_svc.model.loading import load_model
from worker_svc.model.model import Model
from worker_svc.model.share import Share
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.executor import Executor
from worker_svc.step.grammars import Grammars
from worker_svc.step.graphs import CudaRecorder, GraphedSteps, buckets_for
from worker_svc.step.layout import Layout, layout_for

log = logging.getLogger(__name__)

# One step computes and two wait for the device while a report is answered by the next command.
LAUNCH_AHEAD = 2


class Company(Protocol):
    """The processes that a worker is made of, as one of them sees them."""

    def settings(self, settings: WorkerSettings, device: torch.device) -> WorkerSettings:
        """What of the settings is this process's part."""

    def device(self, device: torch.device) -> torch.device:
        """Which of the devices of its kind is this process's."""

    def share(self) -> Share:
        """What of the model it loads."""

    def agree(self, num_blocks: int) -> int:
        """How many blocks all have, where it has room for so many."""

    def runner(
        self, model: Model, cache: KVCache, limits: Limits, layout: Layout, settings: WorkerSettings
    ) -> Runner:
        """What runs its part of the steps."""

    def warm_up(self, runner: Runner) -> None:
        """Compute first steps."""

    def fail(self, problem: str) -> None:
        """Tell all that nothing can be trusted any more."""


class Alone:
    """One process is the whole worker."""

    def settings(self, settings: WorkerSettings, _device: torch.device, /) -> WorkerSettings:
        return settings

    def device(self, device: torch.device) -> torch.device:
        return device

    def share(self) -> Share:
        return Share()

    def agree(self, num_blocks: int) -> int:
        return num_blocks

    def runner(
        self, model: Model, cache: KVCache, limits: Limits, layout: Layout, _: WorkerSettings, /
    ) -> Runner:
        return Runner(model, cache, limits, layout)

    def warm_up(self, runner: Runner) -> None:
        runner.warm_up()

    def fail(self, _problem: str, /) -> None:
        """Nobody depends on it: it may end in order."""


ALONE = Alone()


def assemble(settings: WorkerSettings, incarnation: str, company: Company = ALONE) -> Assembly:
    """Load the model, take the memory for its cache, and execute a first step.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        WorkerUnavailable: the device, the kernels or the memory are not there.
    """
    device = company.device(_device(settings.device))
    settings = company.settings(settings, device)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    try:
        kernels = select(settings.kernels, device, settings.attention)
        model = load_model(
            settings.model, settings.dtype, device, kernels, settings.max_context, company.share()
        )
        layout = layout_for(settings.attention, settings.batching)
        limits, cache = make_cache(settings, model, layout, company.agree)
        runner = company.runner(model, cache, limits, layout, settings)
        if model.directory is not None and model.part.is_last:
            runner.executor.masks.grammars = Grammars(model.directory, limits.vocab_size)
        company.warm_up(runner)
        if settings.has_graphs(device.type):
            _capture(runner.executor, limits)
    except KernelsUnavailable as error:
        raise WorkerUnavailable(f"--kernels {settings.kernels}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise WorkerUnavailable(f"the memory of {device} is full: {first_line(error)}") from error
    ahead = settings.launch_ahead
    if ahead is None:
        ahead = LAUNCH_AHEAD if device.type == "cuda" else 0
    info = _info(settings, model, limits, incarnation)
    info = replace(info, launch_ahead=ahead, device=_name(device))
    _say(info, kernels.name, device)
    # While a step is in a later stage the first one has others.
    return Assembly(runner, info, ahead + info.num_stages - 1, company.fail)


def _capture(executor: Executor, limits: Limits) -> None:
    """Steps become graphs; where that fails, they are launched kernel by kernel.

    Not where the other ranks of a stage may be computing a graph that this one is not at any
    more: raises WorkerUnavailable, or they would wait for ever.
    """
    graphs = GraphedSteps(
        executor.model, executor.cache, executor.table, executor.sampler, buckets_for(limits)
    )
    try:
        captured, is_alone = graphs.capture(CudaRecorder()), executor.model.part.is_whole
        for _ in counted(captured, "captured CUDA graphs", len(graphs), is_alone=is_alone):
            pass
    except Exception as error:  # of torch, or of a compiler; steps are computed all the same
        if executor.model.part.num_ranks > 1:
            raise WorkerUnavailable(
                f"no CUDA graphs: {first_line(error)}: --no-cuda-graphs serves without them"
            ) from error
        log.warning("no CUDA graphs, every kernel is launched alone: %s", first_line(error))
    else:
        executor.graphs = graphs


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise WorkerUnavailable("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _say(info: WorkerInfo, kernels: str, device: torch.device) -> None:
    log.info(
        "worker %s holds %s: %s on %s with %s kernels, %s",
        info.incarnation,
        info.model,
        info.dtype,
        device,
        kernels,
        info.fingerprint[:12],
    )
    log.info(
        "%d blocks of %d tokens, contexts up to %d, steps of up to %d sequences and %d tokens",
        info.num_blocks,
        info.block_size,
        info.max_context,
        info.max_batch_size,
        info.max_step_tokens,
    )


def _info(settings: WorkerSettings, model: Model, limits: Limits, incarnation: str) -> WorkerInfo:
    return WorkerInfo(
        incarnation=incarnation,
        model=settings.model_name or model.name,
        fingerprint=model.fingerprint,
        dtype=str(model.dtype).removeprefix("torch."),
        vocab_size=limits.vocab_size,
        max_context=limits.max_context,
        block_size=limits.block_size,
        num_blocks=limits.num_blocks,
        max_batch_size=limits.max_batch_size,
        max_step_tokens=limits.max_step_tokens,
        max_kept_reports=settings.max_kept_reports,
        num_stages=model.part.num_stages,
        version=own_version(),
        tensor_parallel=model.part.num_ranks,
    )
