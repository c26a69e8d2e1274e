"""The oracle's device gives what the pure function says, and notices a cache that is not right."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import Admission, StepCommand, StepReport
from stepserve_bench.oracle_worker.oracle import BLOCK_SIZE, output_of
from stepserve_bench.oracle_worker.runner import OracleRunner, StepsOutOfOrder
from tests.house.test_imports_at_runtime import TENSORS, loaded_after
from worker_svc.core.limits import Limits

LIMITS = Limits(
    vocab_size=512, max_context=256, block_size=16, num_blocks=64, max_batch_size=4,
    max_step_tokens=64,
)  # fmt: skip
PROMPT = tuple(range(300, 340))
SAMPLING = Sampling(max_tokens=30, temperature=0.0)


def admitted(
    sequence_id: int, blocks: range, sampling: Sampling = SAMPLING, **more: int
) -> Admission:
    return Admission(sequence_id, "job", 0, PROMPT, len(PROMPT), sampling, 0, (*blocks,), **more)


def step(number: int, rows: dict[int, int], *admissions: Admission, epoch: int = 1) -> StepCommand:
    return StepCommand(
        epoch=epoch,
        incarnation="me",
        step=number,
        admissions=admissions,
        row_sequence_ids=tuple(rows),
        row_num_tokens=tuple(rows.values()),
        row_num_new_blocks=(0,) * len(rows),
    )


def executed(runner: OracleRunner, command: StepCommand) -> StepReport:
    plan = runner.plan(command)
    return runner.absorb(plan, runner.launch(plan).wait())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("chunk", [7, 16, 40])
def test_chunks_and_decodes_give_what_the_function_says(temperature: float, chunk: int) -> None:
    sampling = replace(SAMPLING, temperature=temperature, seed=random.Random(1).randrange(2**64))
    expected, reason = output_of(PROMPT, sampling, LIMITS.max_context)
    runner, tokens, number, left = OracleRunner(LIMITS, 0.0), [], 0, len(PROMPT)
    newcomers = [admitted(1, range(3, 10), sampling)]
    while runner.num_residents or not number:
        number, count = number + 1, min(chunk, left) or 1
        left = max(0, left - count)
        report = executed(runner, step(number, {1: count}, *newcomers))
        newcomers = []
        tokens += report.token_ids
    assert (tokens, reason) == (expected, "length")
    assert report.freed == ((1, tuple(range(3, 10))),)


def test_a_stop_token_ends_it_on_the_device_too() -> None:
    free, _ = output_of(PROMPT, SAMPLING, LIMITS.max_context)
    sampling = replace(SAMPLING, stop_token_ids=(free[4],))
    ends = free.index(free[4]) + 1
    assert output_of(PROMPT, sampling, LIMITS.max_context) == (free[:ends], "stop")
    runner = OracleRunner(LIMITS, 0.0)
    plans = [runner.plan(step(1, {1: len(PROMPT)}, admitted(1, range(8), sampling)))]
    plans += [runner.plan(step(number, {1: 1})) for number in range(2, ends + 3)]
    launched = [runner.launch(plan) for plan in plans]
    reports = [runner.absorb(p, s.wait()) for p, s in zip(plans, launched, strict=True)]
    assert [token for report in reports for token in report.token_ids] == free[:ends]


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_block_that_another_writes_into_shows(wrong: int) -> None:
    """Any full block of the context: not only the one that the last token lies in."""
    expected, _ = output_of(PROMPT, SAMPLING, LIMITS.max_context)
    runner = OracleRunner(LIMITS, 0.0)
    first = executed(runner, step(1, {1: len(PROMPT)}, admitted(1, range(8))))
    other = Admission(2, "other", 0, PROMPT[1:], 39, SAMPLING, 0, (wrong, 20, 21, 22, 23))
    executed(runner, step(2, {2: BLOCK_SIZE}, other))
    second = executed(runner, step(3, {1: 1}))
    assert [*first.token_ids] == expected[:1]
    assert [*second.token_ids] != expected[1:2]


@pytest.mark.parametrize(
    ("number", "epoch"), [(1, 2), (3, 2), (2, 1)], ids=["again", "too early", "stale"]
)
def test_it_executes_no_step_that_must_not_be(number: int, epoch: int) -> None:
    runner = OracleRunner(LIMITS, 0.0)
    executed(runner, step(1, {1: 1}, admitted(1, range(8)), epoch=2))
    with pytest.raises(StepsOutOfOrder, match=f"step {number} of epoch {epoch}"):
        executed(runner, step(number, {1: 1}, epoch=epoch))


def test_it_loads_no_tensor_library() -> None:
    loaded = loaded_after("import stepserve_bench.oracle_worker.__main__")
    assert "worker_svc" in loaded
    assert loaded & TENSORS == set()


def test_a_vocabulary_that_is_too_small_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("small")
    (directory / "config.json").write_text('{"vocab_size": 257, "max_position_embeddings": 64}')
    command = [sys.executable, "-m", "stepserve_bench.oracle_worker", f"--model={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "257 tokens; the oracle chooses from those from 300 to 499" in done.stderr
