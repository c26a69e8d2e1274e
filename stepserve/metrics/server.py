"""``/metrics``, ``/livez`` and ``/readyz`` on a port of their own.

Served by a thread: a process whose event loop hangs can still say so.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from stepserve.metrics.exposition import Exposition, Page
from stepserve.metrics.vitals import Vitals
from stepserve.protocol.channel import address
from stepserve.protocol.errors import StepserveError

MAX_CONNECTIONS = 16
# A request that has not been answered by then is cut off.
MAX_REQUEST_S = 10.0
LOOK_INTERVAL_S = 0.2
TEXT = "text/plain; charset=utf-8"
INDEX = Page(b"/metrics\n/livez\n/readyz\n", TEXT)


@contextmanager
def serve_status(host: str, port: int, vitals: Vitals, metrics: Exposition) -> Iterator[str]:
    """Serve on ``host:port`` (0: any free port) for the time of the block; yield HOST:PORT.

    Raises StepserveError where the address is taken.
    """
    try:
        server = _Server(host, port, vitals, metrics)
    except OSError as error:
        problem = f"can't serve metrics on {address(host, port)}: {error.strerror}"
        raise StepserveError(problem) from error
    thread = threading.Thread(
        target=server.serve_forever, args=(LOOK_INTERVAL_S,), name="status", daemon=True
    )
    thread.start()
    try:
        yield address(host, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingMixIn, TCPServer):
    """A thread for each connection, of a bounded number of connections and a bounded time."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 2 * MAX_CONNECTIONS

    def __init__(self, host: str, port: int, vitals: Vitals, metrics: Exposition) -> None:
        self.vitals = vitals
        self.metrics = metrics
        self._since_s: dict[Any, float] = {}
        [(self.address_family, *_, where), *_] = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        super().__init__(where[:2], _Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._since_s) >= MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._since_s[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who takes too long; the thread of that connection then finds its end."""
        late_s = time.monotonic() - MAX_REQUEST_S
        for request, since_s in list(self._since_s.items()):
            if since_s < late_s:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody went away, or was cut off: there is nobody to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "stepserve"
    sys_version = ""

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._answer(self.server.metrics.render())
            case "/livez":
                self._tell(self.server.vitals.illness)
            case "/readyz":
                self._tell(self.server.vitals.unreadiness)
            case "/":
                self._answer(INDEX)
            case _:
                self._answer(INDEX, HTTPStatus.NOT_FOUND)

    def _tell(self, problem: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
        self._answer(Page(f"{problem or 'ok'}\n".encode(), TEXT), status)

    def _answer(self, page: Page, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(page.body)

    def log_message(self, *_: Any) -> None:
        """Nobody wants a line for each probe."""
