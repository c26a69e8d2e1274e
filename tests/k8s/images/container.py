"""A container in runc, which does to a process what it does under a kubelet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.k8s.images.tools import run, variables

STOP_S = 60.0


class Container:
    """What a bundle's ``config.json`` says, run. Call ``remove`` in the end."""

    def __init__(self, name: str, bundle: Path) -> None:
        self._name = f"{name}-{os.getpid()}"
        self._bundle = bundle
        # Apart, since what reaches a runtime by two pipes comes in no order.
        self._output, self._errors = bundle / "output", bundle / "errors"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Run it, as well after it has ended."""
        command = [*self._runc("run"), "--bundle", str(self._bundle), self._name]
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, env=variables(), stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def output(self) -> str:
        """Return what it has printed to its standard output since it was launched."""
        return self._output.read_text(errors="replace")

    def said(self) -> str:
        """Return all that it has printed since it was launched."""
        return self.output() + self._errors.read_text(errors="replace")

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end, and return its exit status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def terminate(self, grace_s: float) -> int:
        """Tell it to end, as a kubelet does, and return its exit status; fail where it stays."""
        run(*self._runc("kill"), self._name, signal.SIGTERM.name)
        return self.wait(grace_s)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in it, as its user and with its rights."""
        return subprocess.run(
            [*self._runc("exec"), self._name, *command],
            env=variables(),
            capture_output=True,
            text=True,
            timeout=STOP_S,
            check=False,
        )

    def processes(self) -> list[dict[str, str]]:
        """Return what the kernel says of each of its processes, by the fields of their status."""
        first = json.loads(run(*self._runc("state"), self._name))["pid"]
        return list(_statuses(Path(f"/proc/{first}/ns/pid").readlink()))

    def remove(self) -> None:
        """Kill it where it still runs."""
        command = [*self._runc("delete"), "--force", self._name]
        subprocess.run(command, env=variables(), capture_output=True, check=False)
        if self._process is not None:
            self.wait()

    def _runc(self, command: str) -> list[str]:
        return ["runc", "--root", str(self._bundle / "runtime"), command]


def _statuses(namespace: Path) -> Iterator[dict[str, str]]:
    """Yield the status of each process whose ids are of a namespace."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/pid").readlink() == namespace:
                lines = (process / "status").read_text().splitlines()
                yield {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}
        except OSError:
            continue  # it has ended
