"""One process of the service: up, struck, and started again where it was."""

from __future__ import annotations

import asyncio
import signal

from stepserve.local.processes import Child, Service, ServiceFailed, Supervisor
from stepserve_bench.chaos.link import Link

POLL_S = 0.02
# Who is told to end and does not is killed then.
END_TIMEOUT_S = 30.0


class Member:
    """A worker or a scheduler, and the link through which others reach it.

    ``is_up``: it serves, as far as we did with it; ``is_traced``: a thread of it is stopped. Make
    it, and revive it, in the main thread: children end with the thread that started them.
    """

    def __init__(self, name: str, supervisor: Supervisor, service: Service) -> None:
        self.name = name
        self.child: Child = supervisor.start(service)
        self.is_up = False
        self.is_traced = False
        self.link: Link | None = None
        self._reviving = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self.child.process.pid

    async def wait_ready(self) -> dict[str, str]:
        """Return what its ready line says. Raises ServiceFailed where it ended instead."""
        fields = await asyncio.to_thread(self.child.wait_ready)
        self.is_up = True
        return fields

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal; one that ends it makes it be down."""
        self.is_up = self.is_up and signum in (signal.SIGSTOP, signal.SIGCONT)
        self.child.process.send_signal(signum)

    async def revive(self) -> str:
        """Wait until its process has ended and start it again; return what is wrong with that.

        It is killed where it does not end in time.
        """
        problem = ""
        async with self._reviving:
            process = self.child.process
            if self.is_up and process.poll() is None:
                return ""
            self.is_up = False
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    while process.poll() is None:
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                problem = f"did not end: {self.name} within {END_TIMEOUT_S:g} s of SIGTERM"
                process.kill()
                process.wait()
            # As who starts workers does it: a lane asks at once how its worker ended.
            await asyncio.to_thread(self.child.bury)
            self.child.restart()
            try:
                await self.wait_ready()
            except ServiceFailed as error:
                return f"not started: {self.name}: {error}"
        return problem
