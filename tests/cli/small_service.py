"""A service of a few lines for the supervisor: it serves a port, and does what it is told.

``python -m tests.cli.small_service [--dies | --stalls | --slow-end | --odd-name] --port=P``
"""

from __future__ import annotations

import signal
import socket
import sys
import time


def main() -> None:
    flags = [argument for argument in sys.argv[1:] if not argument.startswith("--port=")]
    [port] = [int(argument[7:]) for argument in sys.argv[1:] if argument.startswith("--port=")]
    print("not the ready line", flush=True)
    if "--dies" in flags:
        sys.exit(7)
    if "--slow-end" in flags:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", port)) as server:
        if "--stalls" not in flags:
            place = f"127.0.0.1:{server.getsockname()[1]}"
            name = "naïve 模" if "--odd-name" in flags else "My  Model "
            print(f"ready worker={place} blocks=3 model={name}", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
