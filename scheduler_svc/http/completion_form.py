"""How a completion looks on the wire, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler_svc.http.choice import Choice, Collected
from scheduler_svc.http.ids import COMPLETION, public_id
from scheduler_svc.http.logprobs import TokenNames
from scheduler_svc.http.prompt_form import PromptForm
from scheduler_svc.http.usage import NO_USAGE, UsageShown, added, usage_of
from stepserve.protocol.inference import StreamEvent


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """What an answer holds: ``echoes`` and ``prompts`` where a prompt's text or ids are shown.

    Each prompt has ``num_outputs`` choices, and ``names`` write their tokens where their
    log-probabilities are shown; ``scored`` are the prompts where theirs are.
    """

    model: str
    num_outputs: int
    echoes: Sequence[str] = ()
    names: TokenNames | None = None
    prompts: Sequence[Sequence[int]] = ()
    scored: Sequence[PromptForm] = ()
    usage: UsageShown = field(default_factory=UsageShown)
    created_s: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, job_id: str) -> dict[str, Any]:
        """Return what every answer and every chunk of it has."""
        return {
            "id": public_id(COMPLETION, job_id),
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
        }

    def choice(self, position: int, event: StreamEvent, text_offset: int) -> dict[str, Any]:
        """Return what an event adds to an output of the prompt at ``position``.

        ``text_offset``: characters of the output's text before it.
        """
        is_first = is_beginning(event, text_offset)
        echo = self.echoes[position] if self.echoes else ""
        shown: dict[str, Any] = {
            "index": position * self.num_outputs + event.index,
            "text": echo + event.text if is_first else event.text,
            "logprobs": None,
            "finish_reason": event.finish_reason or None,
        }
        if self.names is not None:
            starts = [len(echo) + start for start in event.text_offsets]
            shown["logprobs"] = self.names.completion(event.token_ids, event.logprobs, starts)
        if self.scored and is_first:
            self.scored[position].show(shown, event.logprobs, len(echo))
        if self.prompts:
            shown["token_ids"] = list(event.token_ids)
            if is_first:
                shown["prompt_token_ids"] = list(self.prompts[position])
        return shown


def is_beginning(event: StreamEvent, text_offset: int) -> bool:
    """Whether nothing of its output came before an event."""
    return not (event.offset or text_offset)


def whole(form: CompletionForm, jobs: Sequence[Collected]) -> dict[str, Any]:
    """Return the answer of all prompts' jobs."""
    usage = NO_USAGE
    for job in jobs:
        usage = added(usage, job.usage)
    return {
        **form.envelope(jobs[0].job_id),
        "choices": [
            form.choice(position, _as_event(job.job_id, index, choice), 0)
            for position, job in enumerate(jobs)
            for index, choice in enumerate(job.choices)
        ],
        "usage": usage_of(usage),
    }


def _as_event(job_id: str, index: int, choice: Choice) -> StreamEvent:
    """Return a whole output as if it were one event."""
    return StreamEvent(
        job_id,
        index,
        token_ids=choice.token_ids,
        text=choice.text,
        logprobs=choice.logprobs,
        finish=choice.finish,
        text_offsets=choice.text_offsets,
    )
