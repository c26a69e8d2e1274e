"""Runs the tests in ``interpreted.py`` where ``TRITON_INTERPRET`` is set from the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


# All the tests of a file are one here.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("marked", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_triton_kernels_in_the_interpreter(marked: str) -> None:
    tests = Path(__file__).with_name("interpreted.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", marked, str(tests)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
