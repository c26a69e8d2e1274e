"""What stands in for a CUDA graph on a CPU: launches are recorded, and replayed on their memory.

As a graph does, a replay repeats the operations with the tensors and numbers of the recording,
whatever the host has computed since, and leaves its results where the recording left them.
Kernels that read lengths or slots from the device are one operation each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import tree_leaves

from worker_svc.kernels import Kernels, select
from worker_svc.settings import WorkerSettings

if TYPE_CHECKING:
    import pytest

Operation = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]


class HostRead(Exception):
    """Something that was recorded waited for the device."""


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise HostRead(str(func))
        result = func(*args, **(kwargs or {}))
        self.add(func, args, kwargs or {}, result)
        return result

    def add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.operations.append((func, args, kwargs, result))

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


def record(compute: Callable[[], Any]) -> Callable[[], Any]:
    """A ``Recorder``: compute once, and return what replays it."""
    with _Recording() as recording:
        compute()
    return torch.inference_mode()(recording.replay)


def recordable(kernels: Kernels) -> Kernels:
    """The same, with the kernels that look at numbers on the device as one operation each."""
    return replace(
        kernels,
        paged_attention=_whole(kernels.paged_attention),
        rotary_write=_whole(kernels.rotary_write),
        choose=_whole(kernels.choose),
        advance=_whole(kernels.advance),
    )


def _whole(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def launch(*args: Any) -> Any:
        recordings = _get_current_dispatch_mode_stack()
        with _disable_current_modes():
            result = kernel(*args)
        for recording in recordings:
            assert isinstance(recording, _Recording)
            recording.add(kernel, args, {}, result)
        return result

    return launch


class Recordings:
    """The ``Recorder`` of workers that are assembled with recordings in place of CUDA graphs.

    Attributes:
        num_made: recordings made.
        num_replayed: replays of any of them.
    """

    def __init__(self) -> None:
        self.num_made = self.num_replayed = 0

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        """From now on workers are assembled so, on a CPU as on a GPU, unless told otherwise."""
        patch.setattr(WorkerSettings, "has_graphs", lambda settings, _: settings.cuda_graphs)
        patch.setattr("worker_svc.assembly.select", lambda *wanted: recordable(select(*wanted)))
        patch.setattr("worker_svc.assembly.CudaRecorder", lambda: self)

    def __call__(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        replay = record(compute)
        self.num_made += 1

        def counted() -> None:
            self.num_replayed += 1
            replay()

        return counted
