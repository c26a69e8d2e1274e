"""How much memory a service had at most."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil


def service_peak_bytes(pid: int) -> int:
    """Return ``peak_bytes`` of a process and all below it."""
    process = psutil.Process(pid)
    return peak_bytes(p.pid for p in (process, *process.children(recursive=True)))


def peak_bytes(pids: Iterable[int]) -> int:
    """Return the sum of the processes' largest resident sizes (Linux's VmHWM)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total
