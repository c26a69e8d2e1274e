"""A worker whose device stands still after some steps: ``python -m tests.fault.withheld FLAGS``.

What it launches from then on is computed and never reported. ``WITHHELD_FILE`` in the environment
says where it writes how many such steps there are; where that file is there already, nothing is
withheld, so that the worker can be started again.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from worker_svc.step.timer import HostTimer

FILE = "WITHHELD_FILE"
# So many rows and more are computed before: jobs are in the midst of their outputs.
NUM_STEPS_BEFORE = 40


class _Withheld(HostTimer):
    """Steps of one device, numbered as they are launched."""

    num_launched = 0

    def __init__(self) -> None:
        super().__init__()
        self._is_withheld = False

    def stop(self) -> None:
        super().stop()
        _Withheld.num_launched += 1
        num_withheld = _Withheld.num_launched - NUM_STEPS_BEFORE
        if num_withheld > 0:
            self._is_withheld = True
            path = Path(os.environ[FILE])
            path.with_suffix(".new").write_text(str(num_withheld))
            path.with_suffix(".new").rename(path)

    def is_done(self) -> bool:
        return not self._is_withheld

    def wait(self) -> int:
        if self._is_withheld:
            threading.Event().wait()
        return super().wait()


def main() -> int:
    if not Path(os.environ[FILE]).exists():
        import worker_svc.step.executor

        worker_svc.step.executor.start_timer = lambda _: _Withheld()  # type: ignore[assignment]
    from worker_svc.__main__ import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
