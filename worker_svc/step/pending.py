"""A step that was launched: what it chose is on its way to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepserve.protocol.step import TokenLogprobs
from worker_svc.core.outcome import Chosen
from worker_svc.core.residents import Row
from worker_svc.step.sampler import Choice, Logprobs
from worker_svc.step.scores import scores_of
from worker_svc.step.timer import Timer

NO_CHOICE = Choice(torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.int32))


class Pending:
    """The choices of one step, copied to the host while nobody waits for them."""

    def __init__(self, timer: Timer, num_positions: int = 0, num_context: int = 0) -> None:
        self._timer = timer
        self._num_positions, self._num_context = num_positions, num_context
        self._rows: Sequence[Row] = ()
        self._scored: Sequence[Row] = ()
        # In the host's memory; what is in it is meant once the device has come so far.
        self.choice = NO_CHOICE

    def bring(self, choice: Choice, rows: Sequence[Row], scored: Sequence[Row] = ()) -> None:
        """Begin to copy what was chosen for ``rows``, the first ones of the choice.

        And what was found for the ``scored`` ones.
        """
        self._rows, self._scored = rows, scored
        count = len(rows)
        logprobs = choice.logprobs and Logprobs(*map(to_host, choice.logprobs))
        scores = choice.scores and Logprobs(*map(to_host, choice.scores))
        token_ids, is_finite = choice.token_ids[:count], choice.is_finite[:count]
        self.choice = Choice(to_host(token_ids), to_host(is_finite), logprobs, scores)

    def is_done(self) -> bool:
        """Whether ``wait`` would not wait."""
        return self._timer.is_done()

    def token_id(self, at: int) -> int | None:
        """Wait for the token that the row ``at`` chose, in any thread; None where it chose none."""
        self._timer.wait()
        return int(self.choice.token_ids[at]) if self.choice.is_finite[at] else None

    def wait(self) -> Chosen:
        """Wait for the device, in any thread."""
        duration_us = self._timer.wait()
        choice = self.choice
        return Chosen(
            token_ids=choice.token_ids.tolist(),
            is_finite=choice.is_finite.tolist(),
            logprobs=self._take(*choice.logprobs) if choice.logprobs else {},
            scores=scores_of(choice.scores, self._scored) if choice.scores else (),
            duration_us=duration_us,
            num_positions=self._num_positions,
            num_context=self._num_context,
        )

    def _take(self, *logprobs: Tensor) -> dict[int, TokenLogprobs]:
        chosen, ids, values = (part.tolist() for part in logprobs)
        counts = [row.resident.sampling.logprobs for row in self._rows]
        return {
            at: TokenLogprobs(
                chosen[at], tuple(zip(ids[at][:count], values[at][:count], strict=True))
            )
            for at, count in enumerate(counts)
            if count >= 0
        }


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, there once the stream has come to it."""
    if tensor.device.type == "cpu":
        return tensor.clone()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
