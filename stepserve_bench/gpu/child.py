"""A section in a process of its own: what breaks, hangs or fills the card is gone with it.

The process is forked after all imports and before the GPU is touched, so it starts at once. What a
kernel leaves broken (an illegal address ends a CUDA context) breaks no other section.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeVar

from stepserve.process.tether import end_with
from stepserve.protocol.errors import one_line
from stepserve_bench.gpu.setup import Row, Section, Setup

# To unwind: a service that it started is stopped in that time.
STOP_TIMEOUT_S = 15.0
# What ends a section that did not end itself when its time was over.
GRACE_S = 5.0

Item = TypeVar("Item")
Result = TypeVar("Result")
_FORK = multiprocessing.get_context("fork")


def rows_of(section: Section, setup: Setup) -> Iterator[Row]:
    """Yield a section's rows as they come; a row with ``error`` where it fails or runs too long."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_run, args=(section, setup, sender, os.getpid()))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, setup.left_s + GRACE_S)):
            yield receiver.recv()
        yield {"error": "out of time"}
    except EOFError:
        process.join(STOP_TIMEOUT_S)
        if process.exitcode:
            yield {"error": f"its process ended with status {process.exitcode}"}
    finally:
        _stop(process)
        receiver.close()


def forked_map(
    function: Callable[[Item], Result], items: Sequence[Item], num_processes: int, timeout_s: float
) -> Iterator[Result]:
    """Yield ``function`` of each item, as they are done, from forked processes.

    The caller must not have touched the GPU. Raises TimeoutError; BrokenProcessPool where a
    process died.
    """
    pool = ProcessPoolExecutor(
        min(num_processes, max(1, len(items))),
        mp_context=_FORK,
        initializer=end_with,
        initargs=(os.getpid(),),
    )
    try:
        futures = [pool.submit(function, item) for item in items]
        for future in as_completed(futures, max(0.0, timeout_s)):
            yield future.result()
    finally:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _run(section: Section, setup: Setup, sender: Connection, parent: int) -> None:
    end_with(parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for row in section(setup):
            sender.send(row)
            if setup.left_s < 0:
                sender.send({"error": "out of time: what was left is not measured"})
                break
    except Exception as error:
        traceback.print_exc()
        sender.send({"error": one_line(error), "where": traceback.format_exc(limit=-3)})
    finally:
        sender.close()
        sys.stdout.flush()
        sys.stderr.flush()


def _stop(process: BaseProcess) -> None:
    if process.is_alive():
        process.terminate()
        process.join(STOP_TIMEOUT_S)
    with suppress(Exception):
        process.kill()
    process.join()
