from __future__ import annotations

from pathlib import Path

import pytest

from scheduler_svc.core.events import Cancelled, Event, Requeue, Send, WorkerLost
from scheduler_svc.trace.file import open_trace
from scheduler_svc.trace.replay import ReplayCommand
from tests.scheduler_svc.trace.private import check_private
from tests.scheduler_svc.trace.real_lanes import (
    TENANTS,
    VOCAB_SIZE,
    checkpoint,
    record,
    requests,
    traces_of,
)


async def test_real_lanes_replay(
    tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests(seed=3)
    await record(checkpoint(tmp_path), redis_url, tmp_path / "traces", asked)
    traces = traces_of(tmp_path / "traces")
    assert len(traces) == 2
    assert ReplayCommand(files=[str(path) for path in traces]).run() == 0
    assert capsys.readouterr().out.count("identical") == 2
    check_eventful(traces)
    for path in traces:
        text = path.read_text()
        check_private(text, VOCAB_SIZE)
        for secret in (*TENANTS, "retry-", '"ab"'):
            assert secret not in text


def check_eventful(traces: list[Path]) -> None:
    """Assert that what was to happen did happen, to one of the lanes at least."""
    kinds: set[type[Event]] = set()
    num_requeued = num_twice = 0
    for path in traces:
        admitted: set[tuple[str, int]] = set()
        with open_trace(path) as trace:
            for events, effects in trace.turns():
                kinds.update(type(event) for event in events)
                for effect in effects:
                    if isinstance(effect, Requeue):
                        num_requeued += len(effect.job_ids)
                    if isinstance(effect, Send):
                        keys = {(a.job_id, a.index) for a in effect.command.admissions}
                        num_twice += len(keys & admitted)
                        admitted |= keys
    assert {Cancelled, WorkerLost} <= kinds
    assert num_requeued > 0, "the worker that went away had nothing to do"
    assert num_twice > 0, "nobody was preempted"
