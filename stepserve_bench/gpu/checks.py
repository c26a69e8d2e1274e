"""Every kernel against its reference, on the device that is measured, in processes side by side.

Side by side because nearly all of the time is the compiler's. What was compiled stays in Triton's
cache for the sections that follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from functools import partial

from stepserve.protocol.errors import one_line
from stepserve_bench.gpu.attention_checks import attention_cases
from stepserve_bench.gpu.case import Case, Finding
from stepserve_bench.gpu.child import forked_map, num_cores
from stepserve_bench.gpu.locate_checks import locate_cases
from stepserve_bench.gpu.restrict_checks import restrict_cases
from stepserve_bench.gpu.sampling_checks import sampling_cases
from stepserve_bench.gpu.setup import Row, Setup
from stepserve_bench.gpu.token_checks import token_cases
from worker_svc.kernels import Kernels, select

# Each holds a CUDA context of its own, about half a GiB.
MAX_PROCESSES = 14
SHOWN_FAULTS = 12
# To tell what was found, when there was no time for all.
RESERVE_S = 5.0


def kernels(setup: Setup) -> Iterator[Row]:
    """Yield a row for each kernel: cases, the worst error beside what is allowed, faults."""
    cases = all_cases(setup)
    found: dict[str, list[Finding]] = defaultdict(list)
    processes = min(MAX_PROCESSES, num_cores())
    check = partial(_check, setup)
    try:
        for finding in forked_map(check, range(len(cases)), processes, setup.left_s - RESERVE_S):
            found[finding.kernel].append(finding)
    except TimeoutError:
        done = sum(map(len, found.values()))
        yield {"what": "kernels", "error": f"out of time: {done} of {len(cases)} cases done"}
    for kernel in kernel_names():
        yield from _rows(kernel, found.get(kernel, []))


def all_cases(setup: Setup) -> list[Case]:
    """Every case of every kernel, the dearest to compile first."""
    return [
        *attention_cases(setup),
        *sampling_cases(setup),
        *token_cases(setup),
        *locate_cases(setup),
        *restrict_cases(setup),
    ]


def kernel_names() -> list[str]:
    """The kernels that a worker computes with; what ranks do together is no kernel of one GPU."""
    others = {"name", "vocabulary", "all_reduce"}
    return [field.name for field in fields(Kernels) if field.name not in others]


def _check(setup: Setup, number: int) -> Finding:
    case = all_cases(setup)[number]
    try:
        tested = select(setup.kernels_name, setup.device)
        return case.finding(tested, select("torch", setup.device), setup.device)
    except Exception as error:
        return Finding(case.kernel, case.label, fault=one_line(error))


def _rows(kernel: str, findings: list[Finding]) -> Iterator[Row]:
    if not findings:
        yield {"what": kernel, "error": "no case of it was checked"}
        return
    worst = max(findings, key=lambda finding: finding.error / finding.allowed)
    faults = [finding for finding in findings if finding.fault]
    yield {
        "what": kernel,
        "cases": len(findings),
        "faults": len(faults),
        "worst_error": worst.error,
        "allowed": worst.allowed,
        "worst_case": worst.label,
    }
    for finding in faults[:SHOWN_FAULTS]:
        yield {"what": kernel, "fault": f"{finding.label}: {finding.fault}"}
