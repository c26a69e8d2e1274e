"""Finds stop strings in reports before the core sees them."""

from __future__ import annotations

from collections.abc import Mapping

from protos.job import JobSpec
from protos.step import Admission, StepCommand, StepReport
from scheduler_svc.api.stops import StopFinder
from scheduler_svc.api.tokenizer import Tokenizer
from scheduler_svc.core.events import Reported, StopHit


class StopWatch:
    """One finder for each resident sequence whose job has stop strings.

    Text is the shell's matter: the core gets token offsets only.
    """

    def __init__(self, tokenizer: Tokenizer | None, specs: Mapping[str, JobSpec]) -> None:
        self._tokenizer = tokenizer
        self._specs = specs
        self._finders: dict[int, StopFinder] = {}

    def sent(self, command: StepCommand) -> None:
        """Begin to watch the sequences that the command admits."""
        for admission in command.admissions:
            if self._tokenizer is not None and self._specs[admission.job_id].sampling.stop:
                self._finders[admission.sequence_id] = self._finder(self._tokenizer, admission)

    def _finder(self, tokenizer: Tokenizer, admission: Admission) -> StopFinder:
        sampling = self._specs[admission.job_id].sampling
        prompt_ids = admission.token_ids[: admission.num_prompt_tokens]
        finder = StopFinder(tokenizer, sampling.stop, sampling.stop_token_ids, prompt_ids)
        finder.feed(list(admission.token_ids[admission.num_prompt_tokens :]))
        return finder

    def annotate(self, report: StepReport) -> Reported:
        """Return the report with the stop strings that its tokens complete."""
        if not self._finders:
            return Reported(report)
        stops: dict[int, StopHit] = {}
        for sequence_id, token_id in zip(report.token_sequence_ids, report.token_ids, strict=True):
            finder = self._finders.get(sequence_id)
            hit = finder.feed([token_id]) if finder is not None else None
            if hit is not None:
                stops[sequence_id] = hit
        for sequence_id, _ in report.freed:
            self._finders.pop(sequence_id, None)
        return Reported(report, stops)
