"""Steps of made-up sequences: as large as any can be."""

from __future__ import annotations

import pytest

from tests.worker_svc.conftest import Assemble
from worker_svc.core.limits import Limits
from worker_svc.step.layout import Flat, layout_for
from worker_svc.step.synthetic import largest_step


@pytest.mark.parametrize(
    ("max_batch_size", "max_step_tokens", "max_context", "expected"),
    [(6, 64, 100, (6, 10)), (6, 4, 100, (4, 1)), (2, 64, 9, (2, 8)), (1, 1, 2, (1, 1))],
)
def test_the_largest_step_is_as_large_as_a_step_can_be(
    assembled: Assemble,
    max_batch_size: int,
    max_step_tokens: int,
    max_context: int,
    expected: tuple[int, int],
) -> None:
    limits = Limits(257, max_context, 4, 64, max_batch_size, max_step_tokens)
    command = largest_step(limits, Flat())
    num_rows, num_tokens = expected
    assert command.row_num_tokens == (num_tokens,) * num_rows
    report = assembled(max_step_tokens=64).runner.execute(command)
    assert len(report.token_ids) == len(report.logprobs) == num_rows


@pytest.mark.parametrize("batching", ["continuous", "static"])
def test_the_largest_rectangle_can_be_tried(assembled: Assemble, batching: str) -> None:
    """With a limit that dead rows do not count against."""
    limits, layout = Limits(257, 100, 4, 64, 6, 16), layout_for("padded", batching)  # type: ignore[arg-type]
    command = largest_step(limits, layout)
    settings = {"attention": "padded", "batching": batching}
    report = assembled(**settings, max_step_tokens=sum(command.row_num_tokens)).runner.execute(
        command
    )
    assert report.num_positions == {"continuous": 66, "static": 96}[batching]
    assert report.num_context == 6 * 99
