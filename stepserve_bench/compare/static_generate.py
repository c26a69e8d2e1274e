"""The baseline: ``transformers`` ``generate`` in static batches, in a process of its own.

Jobs are taken in order, ``batch_size`` at a time, padded to the longest prompt, and the
batch runs until its longest output is done: the way such a loop is commonly written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from stepserve_bench.measure.figures import figures
from stepserve_bench.measure.memory import peak_bytes
from stepserve_bench.workloads.jobs import BenchJob, read_jobs
from stepserve_bench.workloads.outcome import JobTimes


class StepClock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each step of a ``generate`` call has ended; stops nothing."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        self.times_s.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def run_batch(model: Any, jobs: Sequence[BenchJob]) -> tuple[list[float], list[list[int]]]:
    """Generate one static batch; return the time of each step and each job's own tokens."""
    longest = max(len(job.prompt_token_ids) for job in jobs)
    padding = [longest - len(job.prompt_token_ids) for job in jobs]
    rows = zip(jobs, padding, strict=True)
    input_ids = torch.tensor([[0] * pad + job.prompt_token_ids for job, pad in rows])
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
    clock = StepClock()
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max(job.max_tokens for job in jobs),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    rows_out = output[:, longest:].tolist()
    tokens = [row[: job.max_tokens] for job, row in zip(jobs, rows_out, strict=True)]
    return clock.times_s, tokens


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="stepserve_bench.compare.static_generate", description=__doc__
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--jobs", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype)
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    jobs = read_jobs(arguments.jobs)
    run_batch(model, [BenchJob(job.prompt_token_ids, 2) for job in jobs[: arguments.batch_size]])
    start_s = time.perf_counter()
    times, outputs = [], []
    for first in range(0, len(jobs), arguments.batch_size):
        batch = jobs[first : first + arguments.batch_size]
        steps_s, tokens = run_batch(model, batch)
        outputs += tokens
        times += [JobTimes(start_s, steps_s[: job.max_tokens]) for job in batch]
    memory = peak_bytes([os.getpid()])
    print(json.dumps({"figures": figures(times, memory), "outputs": outputs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
