"""Finds stop strings in reports before the core sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from scheduler_svc.core.events import Reported, StopHit
from scheduler_svc.text.stops import StopFinder
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.job import JobSpec
from stepserve.protocol.step import StepCommand, StepReport

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """A sequence, and its finder from its first token here on."""

    job_id: str
    make: Callable[[], StopFinder]
    finder: StopFinder | None = None

    def look(self, offset: int, token_id: int) -> StopHit | None:
        """Return the stop string that the token at ``offset`` completes, if it does.

        Whatever goes wrong with a text is its own job's matter, and ends that.
        """
        try:
            if self.finder is None:
                self.finder = self.make()
            found = self.finder.feed((token_id,))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # A tokenizer that panics raises no Exception.
            kind = type(error).__name__
            log.error("the text of job %s can't be made", self.job_id, exc_info=error)
            return StopHit(offset, -1, f"its text can't be searched for stop strings: {kind}")
        return None if found is None else StopHit(found.offset, found.text_bytes)


def _finder(tokenizer: Tokenizer, spec: JobSpec, output_ids: Sequence[int]) -> StopFinder:
    """Make a finder that has seen the output that the sequence came with."""
    sampling = spec.sampling
    finder = StopFinder(
        tokenizer,
        sampling.stop,
        sampling.stop_token_ids,
        spec.prompt_token_ids,
        sampling.min_tokens,
    )
    finder.feed(list(output_ids))
    return finder


class StopWatch:
    """One finder for each resident sequence whose job has stop strings.

    Text is the shell's matter: the core gets token offsets only.
    """

    def __init__(self, tokenizer: Tokenizer | None, specs: Mapping[str, JobSpec]) -> None:
        self._tokenizer = tokenizer
        self._specs = specs
        self._watched: dict[int, _Watched] = {}

    def sent(self, command: StepCommand) -> None:
        """Begin to watch the sequences that the command admits."""
        for admission in command.admissions:
            if self._specs[admission.job_id].sampling.stop:
                output_ids = admission.token_ids[admission.num_prompt_tokens :]
                self.watch(admission.sequence_id, admission.job_id, output_ids)

    def watch(self, sequence_id: int, job_id: str, output_ids: Sequence[int]) -> None:
        """Watch a sequence, if it is to be, from behind the output that it has."""
        spec = self._specs[job_id]
        if self._tokenizer is not None and spec.sampling.stop:
            make = partial(_finder, self._tokenizer, spec, output_ids)
            self._watched[sequence_id] = _Watched(job_id, make)

    def forget(self, sequence_ids: Iterable[int]) -> None:
        """Watch these no longer: they have left."""
        for sequence_id in sequence_ids:
            self._watched.pop(sequence_id, None)

    def annotate(self, report: StepReport) -> Reported:
        """Return the report with the stop strings that its tokens complete."""
        if not self._watched:
            return Reported(report)
        stops: dict[int, StopHit] = {}
        tokens = zip(report.token_sequence_ids, report.token_offsets, report.token_ids, strict=True)
        for sequence_id, offset, token_id in tokens:
            watched = self._watched.get(sequence_id)
            hit = watched.look(offset, token_id) if watched is not None else None
            if hit is not None:
                stops[sequence_id] = hit
        self.forget(sequence_id for sequence_id, _ in report.freed)
        return Reported(report, stops)
