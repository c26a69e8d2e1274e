"""The memory of a service is that of all its processes."""

from __future__ import annotations

import subprocess
import sys

from stepserve_bench.measure.memory import peak_bytes, service_peak_bytes

SIZE = 64 << 20
# A process whose child has held SIZE bytes, when it says so, and ends with its parent's input.
CHILD = f"held = bytes(range(256)) * {SIZE // 256}; del held; print('held', flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_what_a_child_held_counts_though_it_is_freed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        alone, whole = peak_bytes([process.pid]), service_peak_bytes(process.pid)
        process.communicate("\n")
    assert 0 < alone < SIZE < whole
