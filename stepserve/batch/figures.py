"""What a run over a batch came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LineRun:
    """What this run did for a line; times are seconds from when it was sent.

    ``was_there``: its job was stored before, by a run that was interrupted, say, and may have
    ended while nobody waited for it. ``is_done``: it has an output.
    """

    is_done: bool = False
    was_there: bool = False
    num_tokens: int = 0
    ttft_s: float = 0.0
    latency_s: float = 0.0


def failed_lines(results: Mapping[int, Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Return the lines that failed, numbered from 1, and what is wrong with each."""
    found = []
    for number, result in sorted(results.items()):
        if problem := _problem(result):
            found.append((number + 1, problem))
    return found


def in_words(figures: Mapping[str, Any]) -> str:
    """Return what became of a run that went on with another's work, "" where it did not."""
    earlier, joined = figures["earlier"], figures["joined"]
    own = figures["jobs"] - earlier - joined
    parts = [
        (earlier, "had ended in an earlier run (earlier)"),
        (joined, "had been submitted before and were followed to their end (joined)"),
        (own, "are this run's"),
    ]
    if not earlier and not joined:
        return ""
    told = ", ".join(f"{count} {what}" for count, what in parts if count)
    tokens = figures["output_tokens"]
    rest = "; rates and times are of the last alone" if own else "; there are no rates and times"
    return f"of {figures['jobs']} jobs {told}{rest}; {tokens} output tokens in all"


def _num_tokens(result: Mapping[str, Any]) -> int:
    """Return how many tokens a result's outputs have together, in either form."""
    body = (result.get("response") or {}).get("body", result)
    return int(body.get("usage", {}).get("completion_tokens", 0))


def _problem(result: Mapping[str, Any]) -> str:
    if error := result.get("error"):
        return f"{error.get('code', 'error')}: {error.get('message', '')}"
    body = (result.get("response") or {}).get("body", {})
    outputs = result.get("outputs") or body.get("choices") or [result]
    for output in outputs:
        if output.get("finish_reason") == "error":
            return f"error: {output.get('finish_message', 'its job failed')}"
    return ""


def summary(
    results: Mapping[int, Mapping[str, Any]], runs: Sequence[LineRun], wall_s: float
) -> dict[str, Any]:
    """Return the run's figures: ``jobs`` and ``output_tokens`` of all results there are.

    ``earlier`` counts results of a run before this one, ``joined`` jobs that were stored before
    this run sent them: how long those took, and when, nobody saw. So rates and times are those
    of the rest, which this run saw from their begin to their end.
    """
    own = [run for run in runs if run.is_done and not run.was_there]
    latencies = sorted(run.latency_s for run in own)
    firsts = sorted(run.ttft_s for run in own)
    num_tokens = sum(run.num_tokens for run in own)
    return {
        "jobs": len(results),
        "failed": len(failed_lines(results)),
        "earlier": len(results) - len(runs),
        "joined": sum(run.was_there for run in runs),
        "wall_s": round(wall_s, 3),
        "requests_per_s": round(len(own) / wall_s, 3) if own else None,
        "output_tokens": sum(map(_num_tokens, results.values())),
        "output_tokens_per_s": round(num_tokens / wall_s, 3) if own else None,
        **{
            f"{name}_{label}": round(values[int(quantile * (len(values) - 1))], 4)
            if values
            else None
            for name, values in (("ttft_s", firsts), ("latency_s", latencies))
            for label, quantile in (("p50", 0.5), ("p99", 0.99))
        },
    }
