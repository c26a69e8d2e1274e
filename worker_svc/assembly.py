"""From settings to a runner that is ready: the model, its kernels, and a cache that fits."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from stepserve.protocol.errors import first_line
from stepserve.protocol.step import WorkerInfo
from worker_svc.cache_size import make_cache
from worker_svc.core.limits import Limits
from worker_svc.errors import WorkerUnavailable
from worker_svc.kernels import KernelsUnavailable, select
from worker_svc.machine.progress import counted
from worker_svc.model.loading import load_model
from worker_svc.model.model import Model
from worker_svc.runner import Runner
from worker_svc.settings import WorkerSettings
from worker_svc.step.executor import Executor
from worker_svc.step.graphs import CudaRecorder, GraphedSteps, buckets_for
from worker_svc.step.layout import layout_for

log = logging.getLogger(__name__)

# One step computes and two wait for the device while a report is answered by the next command.
LAUNCH_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Assembly:
    """A runner that has warmed up, what it tells of itself, and how far ahead it launches."""

    runner: Runner
    info: WorkerInfo
    launch_ahead: int = 0


def assemble(settings: WorkerSettings, incarnation: str) -> Assembly:
    """Load the model, take the memory for its cache, and execute a first step.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        WorkerUnavailable: the device, the kernels or the memory are not there.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = _device(settings.device)
    try:
        kernels = select(settings.kernels, device, settings.attention)
        model = load_model(settings.model, settings.dtype, device, kernels, settings.max_context)
        layout = layout_for(settings.attention, settings.batching)
        limits, cache = make_cache(settings, model, layout)
        runner = Runner(model, cache, limits, layout)
        runner.warm_up()
        if settings.has_graphs(device.type):
            _capture(runner.executor, limits)
    except KernelsUnavailable as error:
        raise WorkerUnavailable(f"--kernels {settings.kernels}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise WorkerUnavailable(f"the memory of {device} is full: {first_line(error)}") from error
    info = _info(settings, model, limits, incarnation)
    _say(info, kernels.name, device)
    ahead = settings.launch_ahead
    if ahead is None:
        ahead = LAUNCH_AHEAD if device.type == "cuda" else 0
    return Assembly(runner, info, ahead)


def _capture(executor: Executor, limits: Limits) -> None:
    """Steps become graphs; where that fails, they are launched kernel by kernel."""
    graphs = GraphedSteps(
        executor.model, executor.cache, executor.table, executor.sampler, buckets_for(limits)
    )
    try:
        for _ in counted(graphs.capture(CudaRecorder()), "captured CUDA graphs", len(graphs)):
            pass
    except Exception as error:  # of torch, or of a compiler; steps are computed all the same
        log.warning("no CUDA graphs, every kernel is launched alone: %s", first_line(error))
    else:
        executor.graphs = graphs


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise WorkerUnavailable("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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
    )
