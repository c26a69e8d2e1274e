"""What a process tells of itself, served where its settings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stepserve.metrics.exposition import Exposition
from stepserve.metrics.server import serve_status
from stepserve.metrics.settings import MetricsSettings
from stepserve.metrics.vitals import Vitals


class Status:
    """Its metrics and its health; ``address`` is where they are served, "" where nowhere."""

    def __init__(self, settings: MetricsSettings) -> None:
        self.vitals = Vitals()
        self.metrics = Exposition(settings.metrics_prefix)
        self.address = ""
        self._host, self._port = settings.metrics_host, settings.metrics_port

    @property
    def is_wanted(self) -> bool:
        """Whether it is to be served."""
        return self._port is not None

    @contextmanager
    def served(self, host: str) -> Iterator[None]:
        """Serve it for the time of the block, if it is to be; at ``host`` where none is set.

        Raises StepserveError where the address is taken.
        """
        if self._port is None:
            yield
            return
        with serve_status(
            self._host or host, self._port, self.vitals, self.metrics
        ) as self.address:
            yield

    @property
    def ready_field(self) -> str:
        """What a ready line says of it, with a space before it; "" where it is served nowhere."""
        return f" metrics={self.address}" if self.address else ""
