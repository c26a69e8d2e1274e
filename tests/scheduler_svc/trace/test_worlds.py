"""Whatever happens to a core, its trace replayed gives the same, and tells nobody's text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.scheduler_svc.core.model_worker import VOCAB_SIZE
from tests.scheduler_svc.core.test_machine import QUIET, LaneMachine, Submitted
from tests.scheduler_svc.trace.private import check_private
from tests.scheduler_svc.trace.tape import KEY, Tape, TapedCore

PRIVATE = {
    "idempotency_key": "retry-4711",
    "model": "tuned-for-acme",
    "tokenizer_fingerprint": "fingerprint-1",
}


class PrivateLanes(LaneMachine):
    """The lanes of the core's tests, whose jobs have something to hide."""

    tapes: list[Tape]

    def submit(self, job: Submitted) -> None:
        spec, *rest = job
        sampling = replace(spec.sampling, logit_bias=((4, 0.125),), stop_token_ids=(0, 31))
        tenant = f"acme-{spec.tenant}-secret"
        spec = replace(spec, sampling=sampling, tenant=tenant, **PRIVATE)
        super().submit((spec, *rest))

    def teardown(self) -> None:
        super().teardown()
        for tape in self.tapes:
            done = tape.replay()
            assert done.difference is None, str(done.difference)
            assert (done.num_events, done.num_effects) == (len(tape.events), len(tape.effects))
            check_private(tape.text, VOCAB_SIZE)
        self.tapes.clear()


def run(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    tapes: list[Tape] = []

    class Lanes(PrivateLanes):
        pass

    Lanes.tapes = tapes
    monkeypatch.setattr(
        "tests.scheduler_svc.core.world.Core", lambda config: TapedCore(config, tapes, KEY)
    )
    run_state_machine_as_test(Lanes, settings=settings(QUIET, **changes))


def test_every_world_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, max_examples=60, stateful_step_count=25)


@pytest.mark.long
def test_many_more_worlds_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, max_examples=2000, stateful_step_count=50, derandomize=False)
