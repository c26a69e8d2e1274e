"""Four jobs in batches of three: who is in which step, as the texts have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepserve_bench.demo.command import (
    CONTINUOUS,
    SELECTIVE,
    STATIC,
    Strategy,
    play,
    queue_without_workers,
)
from stepserve_bench.demo.narration import Narrator, Told
from stepserve_bench.demo.timeline import Track, write_svg
from stepserve_bench.measure.recorded import Doing, RecordedStep


def batches(lengths: list[tuple[set[int], int]]) -> list[set[int]]:
    """Return the batches one by one, from (batch, number of steps)."""
    return [batch for batch, count in lengths for _ in range(count)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # Outputs of 5, 8, 3 and 6. Job 4 takes the place of job 3 in the very next step, beside
        # the two others.
        (CONTINUOUS, [({1, 2, 3}, 3), ({1, 2, 4}, 2), ({2, 4}, 3), ({4}, 1)]),
        # A static batch is waited for to its end.
        pytest.param(
            STATIC, [({1, 2, 3}, 3), ({1, 2}, 2), ({2}, 3), ({4}, 6)], marks=pytest.mark.long
        ),
    ],
    ids=["continuous", "static"],
)
def test_who_is_in_each_step(
    strategy: Strategy, expected: list[tuple[set[int], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STEPSERVE_REDIS_URL", raising=False)
    with queue_without_workers() as (redis_url, target):
        assert play(redis_url, target, strategy).members() == batches(expected)


def steps() -> list[RecordedStep]:
    """A batch of two, of which b is done; then c joins, as long as a."""
    a, b, c = (("a", 0), ("b", 0), ("c", 0))
    return [
        RecordedStep(
            1, 0.0,
            doing={a: Doing.PREFILLS, b: Doing.LEAVES},
            row_tokens={a: 3, b: 2}, lengths={a: 3, b: 2},
        ),
        RecordedStep(2, 0.1),
        RecordedStep(
            3, 0.2,
            doing={a: Doing.LEAVES, c: Doing.PREFILLS},
            row_tokens={a: 1, c: 1}, lengths={a: 4, c: 4},
        ),
    ]  # fmt: skip


def test_steps_in_words() -> None:
    jobs = {("a", 0): Told(1, 2), ("b", 0): Told(2, 1), ("c", 0): Told(3, 5)}
    assert list(Narrator(jobs).tell(steps())) == [
        "Step 0: batch of 2",
        "  job 1: 1 of 2 tokens",
        "  job 2: 1 of 1 tokens (done)",
        "Step 1: batch of 2",
        "  job 1: 2 of 2 tokens (done)",
        "  job 3: 1 of 5 tokens (joined: took the place of job 2)",
    ]
    selective = Narrator(jobs, is_selective=True).tell(steps())
    assert [line for line in selective if not line.startswith("  job")] == [
        "Step 0: batch of 2",
        "  attention:",
        "    a group of 1 job at length 3, 3 of them new",
        "    a group of 1 job at length 2, 2 of them new",
        "  feed-forward: 5 tokens of all 2 jobs at once",
        "Step 1: batch of 2",
        "  attention:",
        "    a group of 2 jobs at length 4",
        "  feed-forward: 2 tokens of all 2 jobs at once",
    ]


def test_selective_batching_is_the_grouped_attention() -> None:
    assert (SELECTIVE.batching, SELECTIVE.attention) == ("continuous", "grouped")


def test_pictures(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "steps.svg"
    write_svg(path, [Track(("a", 0), "job 1", 0.0)], steps())
    assert "job 1" in path.read_text()
