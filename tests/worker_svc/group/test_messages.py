"""What ranks tell each other arrives as it was: turns of any length, and choices."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from stepserve.protocol.step import StepCommand
from tests.worker_svc.group.threads import Post
from worker_svc.group.choices import Choices
from worker_svc.group.turns import FRAME_BYTES, Turn, TurnWriter, decode, encode, turns
from worker_svc.kernels.choice import Choice, Logprobs


@pytest.mark.parametrize("num_rows", [0, 1, 300, 5000])
def test_turns_of_any_length_arrive_in_order_at_everyone(num_rows: int) -> None:
    post = Post()
    command = StepCommand(
        epoch=1,
        incarnation="me",
        step=7,
        row_sequence_ids=tuple(range(num_rows)),
        row_num_tokens=(1,) * num_rows,
        row_num_new_blocks=(0,) * num_rows,
    )
    writer = TurnWriter(post.wires(0).turns, [1, 2], post.fail)
    writer.tell(Turn.STEP, encode(command))
    writer.tell(Turn.SETTLE)
    writer.tell(Turn.END)
    writer.wait_ended(60)
    for rank in (1, 2):
        heard = turns(post.wires(rank).turns)
        turn, payload = next(heard)
        assert (turn, _listed(decode(payload))) == (Turn.STEP, _listed(command))
        assert next(heard) == (Turn.SETTLE, b"")
        assert next(heard) == (Turn.END, b"")
    assert (len(encode(command)) > FRAME_BYTES) == (num_rows > 300)
    assert not post.failures


def _listed(command: StepCommand) -> tuple[Any, ...]:
    return command.step, list(command.row_sequence_ids), list(command.row_num_tokens)


def test_whoever_cannot_tell_says_so() -> None:
    lost = threading.Event()

    class Broken:
        def send(self, *_: object) -> None:
            raise RuntimeError("gone")

        receive = flush = send

    writer = TurnWriter(Broken(), [1], lambda _: lost.set())
    writer.tell(Turn.RESET)
    assert lost.wait(60)


def logprobs_of(num_tokens: int, most: int) -> Logprobs | None:
    if most < 0:
        return None
    top_ids = torch.arange(num_tokens * most, dtype=torch.int32).view(num_tokens, most)
    return Logprobs(-torch.rand(num_tokens) * 1e-30, top_ids, torch.rand(num_tokens, most))


@pytest.mark.parametrize(("num_scored", "num_likeliest"), [(0, -1), (5, 0), (5, 2)])
@pytest.mark.parametrize("num_logprobs", [-1, 0, 3])
def test_choices_arrive_as_they_were(
    num_logprobs: int, num_scored: int, num_likeliest: int
) -> None:
    form = Choices(2**31 + 5, 2, num_logprobs, num_scored, num_likeliest)
    choice = Choice(
        torch.tensor([7, 2**31 - 1], dtype=torch.int32),
        torch.tensor([1, 0], dtype=torch.int32),
        logprobs_of(2, num_logprobs),
        logprobs_of(num_scored, num_likeliest),
    )
    message = form.pack(choice, duration_us=1234)
    assert message.shape == form.empty().shape
    again, duration_us = form.unpack(message)
    assert duration_us == 1234
    assert torch.equal(again.token_ids, choice.token_ids)
    assert torch.equal(again.is_finite, choice.is_finite)
    for got, sent in ((again.logprobs, choice.logprobs), (again.scores, choice.scores)):
        for ours, theirs in zip(got or (), sent or (), strict=True):
            assert torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match="got the choices of another"):
        replace(form, step=form.step + 1).unpack(message)
