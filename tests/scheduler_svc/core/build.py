"""Short spellings of the values that core tests are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from scheduler_svc.core.config import CoreConfig
from scheduler_svc.core.events import Claimed, Effect, Event, Reported, Send, StopHit
from scheduler_svc.core.scheduler import Core
from stepserve.protocol.job import ClaimedJob, Finish, JobSpec, OutputLog
from stepserve.protocol.sampling import Sampling
from stepserve.protocol.step import FinishReason, StepCommand, StepReport, TokenLogprobs

INCARNATION = "0123456789abcdef0123456789abcdef"
EPOCH = 7
ENVELOPE = ("tenant", "deadline_s", "trace")
E = TypeVar("E", bound=Effect)


def core_config(**changes: Any) -> CoreConfig:
    """16 blocks of 4 tokens, 4 places, 16 tokens a step, and what ``changes`` says."""
    values: dict[str, Any] = {
        "epoch": EPOCH,
        "incarnation": INCARNATION,
        "first_step": 1,
        "num_blocks": 16,
        "block_size": 4,
        "max_context": 64,
        "max_batch_size": 4,
        "max_step_tokens": 16,
        "max_uncommitted_steps": 32,
    }
    return CoreConfig(**(values | changes))


def job(
    job_id: str,
    prompt: Sequence[int] = (1, 2, 3),
    outputs: Mapping[int, Sequence[int]] | None = None,
    ended: Sequence[int] = (),
    arrival_s: float = 0.0,
    **more: Any,
) -> ClaimedJob:
    """A claimed job; ``outputs`` are the tokens it has by index, ``ended`` the ended ones.

    ``more`` are a rank (default: the arrival), fields of the spec, and sampling values.
    """
    rank = more.pop("rank", arrival_s)
    envelope = {name: more.pop(name) for name in ENVELOPE if name in more}
    params = Sampling(**({"max_tokens": 8} | more))
    logs = {index: OutputLog(index) for index in range(params.n)}
    for index, token_ids in (outputs or {}).items():
        finish = Finish("stop") if index in ended else None
        logs[index] = OutputLog(index, token_ids, finish=finish)
    spec = JobSpec(job_id, "model", prompt, params, arrival_s=arrival_s, **envelope)
    return ClaimedJob(spec, tuple(logs.values()), rank)


def report(
    step: int,
    *tokens: tuple[int, int, int],
    finished: Sequence[tuple[int, FinishReason]] = (),
    freed: Sequence[tuple[int, Sequence[int]]] = (),
    stops: Mapping[int, StopHit] | None = None,
    logprobs: Mapping[int, TokenLogprobs] | None = None,
) -> Reported:
    """A step's report; ``tokens`` are (sequence id, offset, token id)."""
    ids, offsets, token_ids = zip(*tokens, strict=True) if tokens else ((), (), ())
    return Reported(
        StepReport(
            INCARNATION,
            EPOCH,
            step,
            ids,
            offsets,
            token_ids,
            logprobs or {},
            finished,
            freed,
        ),
        stops or {},
    )


class Lane:
    """A core, and what came of the last event; ``check()`` after each."""

    def __init__(self, *jobs: ClaimedJob, **changes: Any) -> None:
        self.core = Core(core_config(**changes))
        self.effects: list[Effect] = self.core.handle([])
        if jobs:
            self.tell(Claimed(jobs))

    def tell(self, *events: Event) -> list[Effect]:
        self.effects = self.core.handle(events)
        self.core.check()
        return self.effects

    def run(self, *events: Event) -> None:
        """Tell the core, one event at a time."""
        for event in events:
            self.tell(event)

    def only(self, kind: type[E]) -> E:
        """Return the one effect of this kind."""
        (effect,) = self.every(kind)
        return effect

    def every(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def commands(self) -> list[StepCommand]:
        return [effect.command for effect in self.every(Send)]

    @property
    def rows(self) -> list[list[tuple[int, int]]]:
        """(sequence id, number of tokens) of each row of each command."""
        return [
            list(zip(command.row_sequence_ids, command.row_num_tokens, strict=True))
            for command in self.commands
        ]
