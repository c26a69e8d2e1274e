"""One output of a job as a stream of events, made from its log alone."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler_svc.queue import LogRequest
from scheduler_svc.text.detokenize import Detokenizer
from scheduler_svc.text.stops import StopGuard
from scheduler_svc.text.token_starts import TokenStarts
from scheduler_svc.text.tokenizer import Tokenizer
from stepserve.protocol.errors import BegunAnew, OutOfRange
from stepserve.protocol.inference import StreamEvent
from stepserve.protocol.job import Finish, JobSpec, OutputLog
from stepserve.protocol.step import TokenLogprobs

# What is read at once, and so an event's size: what a client keeps here that does not read it.
# Log-probabilities take a hundred times longer to decode, and as values 2.9 kB a token with 20
# for each: 46 kB, and a quarter of a millisecond's work.
MAX_EVENT_TOKENS = 512
MAX_LOGPROBS_EVENT_TOKENS = 16


class OutputStream:
    """Events of output ``index`` from token ``offset`` on.

    The text of an event is a pure function of the prompt's and the output's tokens up to
    its end, so the text before ``offset`` is made as well, and not shown.
    """

    def __init__(self, spec: JobSpec, index: int, offset: int, tokenizer: Tokenizer | None) -> None:
        sampling = spec.sampling
        self._job_id = spec.job_id
        self._index = index
        self._start = offset
        self._wants_logprobs = sampling.logprobs >= 0
        # The prompt's come with the first token, packed.
        self._prompt_bytes = 8 * len(spec.prompt_token_ids) * (1 + sampling.prompt_logprobs)
        # The text of a stop token is not shown.
        self._detokenizer = Detokenizer(tokenizer, sampling.stop_token_ids, spec.prompt_token_ids)
        self._starts = TokenStarts(self._detokenizer)
        self._guard = StopGuard(sampling.stop)
        self._num_early = sampling.min_tokens
        self._num_restarts = 0
        self.num_tokens = 0
        self.has_ended = False

    def request(self) -> LogRequest:
        """Return what to read next."""
        offset, num_hidden = self.num_tokens, self._start - self.num_tokens
        logprobs = self._wants_logprobs and num_hidden <= 0
        max_tokens = MAX_LOGPROBS_EVENT_TOKENS if logprobs else MAX_EVENT_TOKENS
        if num_hidden > 0:
            max_tokens = min(max_tokens, num_hidden)
        which = self._job_id, self._index, offset
        num_bytes = self._prompt_bytes if logprobs and not offset else 0
        return LogRequest(*which, logprobs, max_tokens, self._num_restarts, num_bytes)

    def take(self, output: OutputLog) -> StreamEvent | None:
        """Return the event for what was read, or None where all of it is before the offset.

        Raises OutOfRange where the output has ended before the offset, BegunAnew where
        what was taken before is no part of it any more.
        """
        if output.num_restarts != self._num_restarts and self.num_tokens:
            raise BegunAnew("the job was begun anew on another model: attach again from offset 0")
        self._num_restarts = output.num_restarts
        token_ids, logprobs, finish = output.token_ids, output.logprobs, output.finish
        if (num_hidden := self._start - self.num_tokens) > 0:
            self._text_of(token_ids[:num_hidden], [])
            self.num_tokens += len(token_ids[:num_hidden])
            token_ids, logprobs = token_ids[num_hidden:], logprobs[num_hidden:]
            if finish is not None and self.num_tokens < self._start:
                problem = f"the output has ended with {self.num_tokens} tokens"
                raise OutOfRange("offset", problem)
        if not token_ids and finish is None:
            return None
        return self._event(token_ids, logprobs, finish)

    def _event(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprobs],
        finish: Finish | None,
    ) -> StreamEvent:
        starts: list[int] = []
        text = self._text_of(token_ids, starts)
        if finish is not None:
            text += self._guard.finish(self._detokenizer.rest(), finish)
            self.has_ended = True
        offset = self.num_tokens
        self.num_tokens += len(token_ids)
        return StreamEvent(
            self._job_id,
            self._index,
            offset,
            token_ids,
            text,
            logprobs,
            finish,
            text_offsets=starts,
        )

    def _text_of(self, token_ids: Sequence[int], starts: list[int]) -> str:
        """Return what the next tokens complete of the text that is shown.

        Where it is told, where each of them begins is added to ``starts``.
        """
        num_early = self._num_early - self.num_tokens
        if num_early <= 0:
            return self._guard.feed(self._feed(token_ids, starts))
        text = self._guard.skip(self._feed(token_ids[:num_early], starts))
        return text + self._guard.feed(self._feed(token_ids[num_early:], starts))

    def _feed(self, token_ids: Sequence[int], starts: list[int]) -> str:
        if not self._wants_logprobs:
            return self._detokenizer.feed(token_ids)
        text, begun = self._starts.feed(token_ids)
        starts += begun
        return text
