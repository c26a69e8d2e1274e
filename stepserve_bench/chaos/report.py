"""What a run came to: its figures, and a table for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from stepserve_bench.chaos.kinds import KINDS
from stepserve_bench.chaos.ledger import Ledger
from stepserve_bench.chaos.stalls import Struck, by_kind
from stepserve_bench.report.tables import table_console

MAX_TOLD = 50


def figures(
    ledger: Ledger, faults: Sequence[Struck], counted: Mapping[str, float]
) -> dict[str, Any]:
    """Return all that is told of a run, as JSON can hold it."""
    ordered = sorted(faults, key=lambda fault: fault.at_s)
    span_s = ordered[-1].at_s - ordered[0].at_s if ordered else 0.0
    return {
        "faults": len(ordered),
        "faults_span_s": round(span_s, 1),
        "jobs": len(ledger.entries),
        "outputs": sum(len(entry.outputs) for entry in ledger.entries.values()),
        "tokens": ledger.num_tokens,
        "num_problems": len(ledger.problems),
        "problems_by_kind": dict(Counter(p.partition(":")[0] for p in ledger.problems)),
        "problems": ledger.problems[:MAX_TOLD],
        "stalls": by_kind(ledger, ordered),
        "counted_by_who_lives": counted,
        "struck": [_told(fault, ordered[0].at_s) for fault in ordered],
    }


def _told(fault: Struck, zero_s: float) -> dict[str, Any]:
    return {
        "kind": fault.kind,
        "what": fault.what,
        "at_s": round(fault.at_s - zero_s, 3),
        "healed_s": round(fault.healed_s - zero_s, 3) if fault.healed_s else None,
        "jobs": len(fault.job_ids),
    }


def print_report(found: Mapping[str, Any], apart_s: float) -> None:
    """Print the stalls by kind of fault, and the verdict."""
    console = table_console()
    title = f"stall of the streams that a fault concerned, s; faults at least {apart_s:g} s apart"
    heads = ("fault", "faults", "streams", "median", "p99", "max", "aim: p99")
    table = Table(*heads, title=title)
    for kind, row in found["stalls"].items():
        names = ("median_s", "p99_s", "max_s")
        numbers = [f"{row[name]:.2f}" if name in row else "" for name in names]
        counts = [f"{row[name]:g}" for name in ("faults", "streams")]
        aim_s = KINDS[kind].aim_s
        aim = "" if aim_s is None else f"{aim_s:g}"
        table.add_row(kind, *counts, *numbers, aim)
    console.print(table)
    for kind in found["stalls"]:
        console.print(f"  {kind}: {KINDS[kind].about}", highlight=False)
    for problem in found["problems"]:
        console.print(f"PROBLEM {problem}", markup=False)
    console.print(
        f"{found['faults']} faults in {found['faults_span_s']:g} s, {found['jobs']} jobs, "
        f"{found['tokens']} tokens: {found['num_problems']} problems"
        + (" (0 lost, 0 repeated, 0 contradicted)" if not found["num_problems"] else "")
    )
