"""Child processes of ``stepserve up``: started, watched, restarted, stopped."""

from __future__ import annotations

import errno
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING

from stepserve.local.ready import ready_fields
from stepserve.local.spawn import spawn, stop
from stepserve.process.stopping import Stop
from stepserve.protocol.errors import StepserveError

if TYPE_CHECKING:
    from stepserve.local.pulse import Pulse

STOP_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.05
PORT_PATIENCE_S = 2.0
# A service that ends so often in a row before it is ready is broken, not unlucky.
MAX_FAILED_STARTS = 5
# One that has served is started again however often it dies: its jobs may be why, and it takes
# some crashes to find out which. Only if it dies more often than that, it waits.
MAX_DEATHS_AT_ONCE, DEATHS_WINDOW_S = 12, 60.0
MAX_PAUSE_S = 30.0


class ServiceFailed(StepserveError):
    """A child process ended, or would end, before it was ready."""


class Stopped(Exception):
    """We were told to stop before everything was ready."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to run: a module and its arguments. It prints ``ready KEY=VALUE ...``."""

    name: str
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def check_port(host: str, port: int) -> None:
    """Raise ServiceFailed where ``port`` can't be served on, now or within moments."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    give_up_s = time.monotonic() + PORT_PATIENCE_S
    while True:
        try:
            socket.create_server((host.strip("[]"), port), family=family).close()
        except OSError as error:
            # What was killed a moment ago may still be ending.
            in_use = error.errno == errno.EADDRINUSE
            if not in_use or time.monotonic() > give_up_s:
                # What Python adds in brackets is the address again.
                reason = "it is in use" if in_use else str(error.strerror).partition(" (while")[0]
                hint = "; stop what serves there, or choose another port" if in_use else ""
                raise ServiceFailed(f"can't serve on {host}:{port}: {reason}{hint}") from None
            time.sleep(POLL_INTERVAL_S)
        else:
            return


def is_free(host: str, port: int) -> bool:
    """Return whether ``port`` could be served on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError:
        return False
    return True


class Child:
    """One running service and the ready line that it prints."""

    def __init__(self, service: Service, stop: Stop) -> None:
        self.service = service
        self._stop = stop
        self._ready: queue.SimpleQueue[dict[str, str] | None] = queue.SimpleQueue()
        self.fields: dict[str, str] = {}
        self.deaths_s: list[float] = []
        self.num_failed_starts = 0
        # When it is to be started again; None while it lives, or its death was not noticed.
        self.due_s: float | None = None
        self.has_served, self.ready_line = False, ""
        self._pulse: Pulse | None = None
        self._tell_death: Callable[[str, int], None] | None = None
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[str]:
        # Its own session: a Ctrl-C in the terminal reaches us alone, and we stop the
        # services in order.
        service = self.service
        process = spawn(service.arguments, service.environment, is_own_session=True)
        # Whoever still reads of the process before tells of that one's end, not of this one's.
        reading = (process, self._ready)
        threading.Thread(target=self._read, args=reading, daemon=True).start()
        return process

    def _read(
        self, process: subprocess.Popen[str], ready: queue.SimpleQueue[dict[str, str] | None]
    ) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if fields := ready_fields(line):
                    self.ready_line, self.has_served = line.rstrip("\n"), True
                    ready.put(fields)
                else:
                    print(f"[{self.service.name}] {line}", end="", file=sys.stderr, flush=True)
        ready.put(None)

    def wait_ready(self, meanwhile: Callable[[], object] = bool) -> dict[str, str]:
        """Return the fields of the ready line; ``meanwhile`` is called often until then.

        Raises ServiceFailed where the process ends instead, Stopped when we are to stop.
        """
        while not self._stop.is_set():
            try:
                fields = self._ready.get(timeout=POLL_INTERVAL_S)
            except queue.Empty:
                meanwhile()
                continue
            if fields is None and self._stop.is_set():
                break
            if fields is None:
                status = self.process.wait()
                raise ServiceFailed(f"{self.service.name} ended with status {status} at start")
            self.fields = fields
            self._pulse = self._pulse or self._first_pulse()
            return fields
        raise Stopped

    def _first_pulse(self) -> Pulse:
        # Not above: a client's commands come here, and its installation has no health checks. Nor
        # later: who asks how a worker died asks at once.
        from stepserve.local.obituary import tell_death
        from stepserve.local.pulse import Pulse

        self._tell_death = tell_death
        # Over TLS it would have to be believed: then its health is served apart.
        return Pulse(self.fields.get("health") or self._address)

    @property
    def _address(self) -> str:
        """Where it serves: HOST:PORT."""
        return self.fields.get("worker") or self.fields.get("grpc", "")

    @property
    def is_hung(self) -> bool:
        """Whether it lives and serves no more, by its health."""
        return self._pulse is not None and self._pulse.is_lost

    def bury(self) -> None:
        """It has ended: say how to those who ask it, and when it is to be started again."""
        if self.has_served and self._tell_death and (address := self.fields.get("worker")):
            self._tell_death(address, self.process.returncode)
        if self._pulse is not None:
            self._pulse.forget()
        now_s = time.monotonic()
        self.num_failed_starts = 0 if self.has_served else self.num_failed_starts + 1
        self.deaths_s = [d for d in self.deaths_s if now_s - d < DEATHS_WINDOW_S] + [now_s]
        excess = len(self.deaths_s) - MAX_DEATHS_AT_ONCE
        self.due_s = now_s + (min(2.0 ** (excess - 1), MAX_PAUSE_S) if excess > 0 else 0.0)

    def restart(self) -> None:
        """Start it again, on the ports that it had, so that others find it."""
        ports = {
            "--port": self._address,
            "--health-port": self.fields.get("health", ""),
            "--http-port": self.fields.get("http", ""),
            "--metrics-port": self.fields.get("metrics", ""),
        }
        served = {flag: address.rpartition(":")[2] for flag, address in ports.items() if address}
        flags = [f for f in self.service.arguments if f.partition("=")[0] not in served]
        flags += [f"{flag}={port}" for flag, port in served.items()]
        self.service = replace(self.service, arguments=flags)
        self._ready = queue.SimpleQueue()
        self.due_s, self.has_served = None, False
        self.process = self._spawn()

    def close(self) -> None:
        """Ask it no more how it is."""
        if self._pulse is not None:
            self._pulse.close()


class Supervisor:
    """Owns the children; on exit the youngest is stopped first (schedulers before workers)."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._children: list[Child] = []
        self._failure = ""

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in reversed(self._children):
            child.close()
            stop(child.process, STOP_TIMEOUT_S)

    def start(self, service: Service) -> Child:
        """Start a service. Raises Stopped where we are to stop instead."""
        if self._stop.is_set():
            raise Stopped
        child = Child(service, self._stop)
        self._children.append(child)
        return child

    def watch(self, also: Callable[[], object]) -> None:
        """Restart what dies or hangs, until we are to stop or something can't be started any more.

        ``also`` is called again and again beside it.
        """
        while not self._stop.wait(POLL_INTERVAL_S):
            also()
            for child in self._children:
                if child.is_hung:
                    what = f"{child.service.name} does not answer; it is killed"
                    print(f"stepserve: {what}", file=sys.stderr, flush=True)
                    child.process.kill()
                    child.process.wait()
                if child.process.poll() is not None and not self._revive(child):
                    return

    def _revive(self, child: Child) -> bool:
        if child.due_s is None and not self._bury(child):
            return False
        if child.due_s is not None and time.monotonic() >= child.due_s:
            child.restart()
        return True

    def _bury(self, child: Child) -> bool:
        child.bury()
        assert child.due_s is not None
        what = f"{child.service.name} ended with status {child.process.returncode}"
        if child.num_failed_starts > MAX_FAILED_STARTS:
            self._failure = f"{what} at its start, {child.num_failed_starts} times in a row"
            print(f"stepserve: {self._failure}", file=sys.stderr, flush=True)
            return False
        pause_s = child.due_s - time.monotonic()
        when = f" in {pause_s:.0f} s" if pause_s > 0.5 else ""
        print(f"stepserve: {what}; starting it again{when}", file=sys.stderr, flush=True)
        return True

    def status(self) -> int:
        """Return the exit status: 1 after a failure."""
        return 1 if self._failure else 0
