"""A thread that is stopped keeps nothing of its process: not even from dying."""

from __future__ import annotations

import signal
import subprocess
import sys

from stepserve_bench.chaos.stopping import stopped_thread

NAMED = """
import pathlib, threading
def work():
    pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("model")
    print("ready", flush=True)
    threading.Event().wait()
threading.Thread(target=work).start()
"""
WAIT_S = 30.0


def test_a_process_that_is_killed_while_its_thread_is_stopped_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with stopped_thread(process.pid, "model"):
            process.send_signal(signal.SIGCONT)  # starts no thread that is stopped so
            process.kill()
        assert process.wait(WAIT_S) == -signal.SIGKILL
