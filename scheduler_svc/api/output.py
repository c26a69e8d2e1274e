"""One output of a job as a stream of events, made from its log alone."""

from __future__ import annotations

from collections.abc import Iterator

from protos.errors import InvalidRequest
from protos.inference import StreamEvent
from protos.job import Finish, JobSpec, OutputLog
from scheduler_svc.api.detokenize import Detokenizer
from scheduler_svc.api.stops import StopGuard
from scheduler_svc.api.tokenizer import Tokenizer
from scheduler_svc.queue import LogRequest

# With 20 log-probabilities for each token such an event has about 100 kB.
MAX_EVENT_TOKENS = 512


class OutputStream:
    """Events of output ``index`` from token ``offset`` on.

    The text of an event is a pure function of the tokens up to its end, so the text
    before ``offset`` is made as well, and not shown.
    """

    def __init__(self, spec: JobSpec, index: int, offset: int, tokenizer: Tokenizer | None) -> None:
        sampling = spec.sampling
        self._job_id = spec.job_id
        self._index = index
        self._start = offset
        self._wants_logprobs = sampling.logprobs >= 0
        # The text of a stop token is not shown.
        self._detokenizer = Detokenizer(tokenizer, sampling.stop_token_ids)
        self._guard = StopGuard(sampling.stop)
        self.num_tokens = 0
        self.has_ended = False

    def request(self) -> LogRequest:
        """Return what to read next."""
        return LogRequest(self._job_id, self._index, self.num_tokens, self._wants_logprobs)

    def take(self, output: OutputLog) -> Iterator[StreamEvent]:
        """Yield the events for what was read; the last one has the finish, if there is one.

        Raises InvalidRequest where the output has ended before the offset.
        """
        skipped = min(len(output.token_ids), max(0, self._start - self.num_tokens))
        self._guard.feed(self._detokenizer.feed(output.token_ids[:skipped]))
        self.num_tokens += skipped
        starts = list(range(skipped, len(output.token_ids), MAX_EVENT_TOKENS))
        for start in starts[:-1]:
            yield self._event(output, start, start + MAX_EVENT_TOKENS, None)
        if output.finish is not None and self.num_tokens < self._start:
            problem = f"the output has ended with {self.num_tokens} tokens"
            raise InvalidRequest("offset", problem)
        if starts or output.finish is not None:
            start = starts[-1] if starts else skipped
            yield self._event(output, start, len(output.token_ids), output.finish)

    def _event(self, output: OutputLog, start: int, end: int, finish: Finish | None) -> StreamEvent:
        token_ids = output.token_ids[start:end]
        text = self._guard.feed(self._detokenizer.feed(token_ids))
        if finish is not None:
            text += self._guard.finish(self._detokenizer.rest(), finish)
            self.has_ended = True
        offset = self.num_tokens
        self.num_tokens += len(token_ids)
        logprobs = output.logprobs[start:end]
        return StreamEvent(self._job_id, self._index, offset, token_ids, text, logprobs, finish)
