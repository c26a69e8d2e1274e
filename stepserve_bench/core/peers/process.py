"""A peer's scheduler in a process of its own, under a Python of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from stepserve.protocol.errors import StepserveError
from stepserve_bench.core.steady_decode import DecodeCase

SCRIPT = Path(__file__).with_name("vllm_scheduler.py")
README = "stepserve_bench/core/peers/README.md"
EXIT_TIMEOUT_S = 10.0


class Peer:
    """``vllm_scheduler.py`` under ``python``: measures only while it is asked.

    Between two orders it waits for its standard input and uses no processor. Raises
    StepserveError where it can't be started, or ends by itself.
    """

    def __init__(self, python: str) -> None:
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            try:
                self._process = subprocess.Popen(
                    [python, "-I", str(SCRIPT)],  # -I: nothing of ours is on its path
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            except OSError as error:
                raise StepserveError(f"--peer-python: {error}") from None
            stack.callback(self._end)
            self.versions = self._read()
            self._stack = stack.pop_all()

    def start(self, case: DecodeCase, num_warm_up_steps: int) -> None:
        """Make a new scheduler with the case, compute its prompts, and warm up."""
        num_running = self._ask(
            {
                "prompts": case.prompts,
                "max_tokens": case.max_tokens,
                "block_size": case.block_size,
                "num_blocks": case.num_blocks,
                "max_step_tokens": case.max_step_tokens,
                "num_warm_up_steps": num_warm_up_steps,
            }
        )["num_running"]
        if num_running != len(case.prompts):
            raise StepserveError(f"the peer runs {num_running} of {len(case.prompts)}")

    def measure(self, num_steps: int) -> list[float]:
        """Run so many steps; return what schedule and update took in each, in µs."""
        answer = self._ask({"num_steps": num_steps})
        parts = zip(answer["schedule_us"], answer["update_us"], strict=True)
        return [schedule_us + update_us for schedule_us, update_us in parts]

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _end(self) -> None:
        """Its standard input ends, and that is its end."""
        try:
            self._process.communicate(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; the missing answer says so.
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["it said nothing"])[-1]
        raise StepserveError(f"the peer ended: {last} ({README} says how to make it)")
