"""Make each mistake in a copy of the core and see a test fail.

``python -m tests.scheduler_svc.core.mutants``

Prints which test caught which mistake; the exit status is 1 where one survives. Names given
as arguments choose among the mutants.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.scheduler_svc.core import mutations
from tests.scheduler_svc.core.adoption_mutations import ADOPTION_MUTANTS
from tests.scheduler_svc.core.block_mutations import BLOCK_MUTANTS
from tests.scheduler_svc.core.broken_job_mutations import BROKEN_JOB_MUTANTS
from tests.scheduler_svc.core.mutations import Mutant
from tests.scheduler_svc.core.pipeline_mutations import PIPELINE_MUTANTS

ROOT = Path(__file__).resolve().parents[3]
TESTS = ("tests/scheduler_svc/core", "tests/kvstore")
PACKAGES = ("kvstore", "stepserve", "scheduler_svc", *TESTS)
SURVIVED = "SURVIVED"
MUTANTS = (
    *mutations.MUTANTS,
    *BLOCK_MUTANTS,
    *BROKEN_JOB_MUTANTS,
    *PIPELINE_MUTANTS,
    *ADOPTION_MUTANTS,
)
# What makes the core run in circles takes this many times what the tests take without a mistake.
PATIENCE = 4
CONTROL_TIMEOUT_S = 900.0


def mutated(mutant: Mutant) -> str:
    """Return the file's text with the mistake in it. Raises ValueError where it moved."""
    text = (ROOT / mutant.path).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {text.count(mutant.old)} occurrences in {mutant.path}")
    return text.replace(mutant.old, mutant.new)


def caught_by(mutant: Mutant | None, timeout_s: float) -> str:
    """Return the first test that fails with ``mutant`` in a copy of the packages."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        for package in PACKAGES:
            ignore = shutil.ignore_patterns("__pycache__", "test_mutants.py")
            shutil.copytree(ROOT / package, copy / package, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for package in ("tests", "tests/scheduler_svc"):
            shutil.copy(ROOT / package / "__init__.py", copy / package)
        if mutant is not None:
            (copy / mutant.path).write_text(mutated(mutant))
        return _first_failure(copy, timeout_s)


def _first_failure(copy: Path, timeout_s: float) -> str:
    machine = "tests/scheduler_svc/core/test_machine.py"
    found = (path for tests in TESTS for path in sorted((copy / tests).glob("test_*.py")))
    examples = [str(path.relative_to(copy)) for path in found]
    examples.remove(machine)
    # The machine comes last: it is the slowest, and says least about what went wrong.
    command = [sys.executable, "-m", "pytest", *examples, machine, "-x", "-q", "-m", "not long"]
    options = ["-p", "no:cacheprovider", "-p", "no:randomly", "--tb=no", "-rf"]
    profile = ["--hypothesis-profile=unshrunk"]
    try:
        done = subprocess.run(
            command + options + profile,
            cwd=copy,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "runs in circles"
    if done.returncode == 0:
        return SURVIVED
    failures = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if not failures:
        raise RuntimeError(f"the tests do not run:\n{done.stdout}{done.stderr}")
    return failures[0].removeprefix("FAILED ").split(" - ")[0].removeprefix("tests/")


def main(names: list[str]) -> int:
    start_s = time.monotonic()
    if (control := caught_by(None, CONTROL_TIMEOUT_S)) != SURVIVED:
        print(f"fails without a mistake: {control}")
        return 1
    timeout_s = PATIENCE * (time.monotonic() - start_s)
    num_survivors = 0
    print("| mistake | file | caught by |\n| --- | --- | --- |")
    for mutant in MUTANTS:
        if not names or mutant.name in names:
            caught = caught_by(mutant, timeout_s)
            num_survivors += caught == SURVIVED
            print(f"| {mutant.name} | {mutant.path} | {caught} |", flush=True)
    print(f"\n{num_survivors} survived")
    return 1 if num_survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
