"""How much memory is left for weights and cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on ``device``; on a CPU the container's limit counts too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = int(psutil.virtual_memory().available)
    limited = cgroup_free_bytes(CGROUP)
    return available if limited is None else min(available, limited)


def peak_bytes(device: torch.device, run: Callable[[], object]) -> int:
    """What ``run`` takes of a CUDA device's memory at most, beyond what is held before it.

    What it let go of is given back to the device.
    """
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    peak = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    return peak


def cgroup_free_bytes(cgroup: Path) -> int | None:
    """What a cgroup (v2) at this path leaves, in bytes; None without a limit.

    Pages of files that were only read count as free: the kernel takes them back.
    """
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = (cgroup / "memory.stat").read_text().split()
    except OSError:
        return None
    if limit == "max":
        return None
    reclaimable = int(statistics[statistics.index("inactive_file") + 1])
    return max(0, int(limit) - used + reclaimable)
