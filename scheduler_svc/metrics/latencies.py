"""How long outputs wait, begin and go on, as a lane sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from stepserve.metrics.family import Family, counter, counters, histogram
from stepserve.metrics.histogram import Histogram

# In seconds; vLLM's bounds where it has them.
_FIRST_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
_BETWEEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5,
    5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_WHOLE_S = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480,
    960, 1920, 7680,
)  # fmt: skip
_TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000,
)  # fmt: skip


class Latencies:
    """Of all outputs of a process's lanes. Each of a job's outputs counts for itself."""

    def __init__(self) -> None:
        self.queue_s = Histogram(_WHOLE_S)
        self.prefill_s = Histogram(_WHOLE_S)
        self.first_token_s = Histogram(_FIRST_S)
        self.between_tokens_s = Histogram(_BETWEEN_S)
        self.decode_s = Histogram(_WHOLE_S)
        self.whole_s = Histogram(_WHOLE_S)
        self.prompt_tokens = Histogram(_TOKENS)
        self.output_tokens = Histogram(_TOKENS)
        self.num_ended: Counter[str] = Counter()
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0

    def families(self) -> Iterable[Family]:
        """Return them under vLLM's names."""
        return [
            histogram(
                "time_to_first_token_seconds",
                "From a job's arrival to when the scheduler has an output's first token.",
                self.first_token_s,
            ),
            histogram(
                "inter_token_latency_seconds",
                "Between two tokens of an output, preemptions included.",
                self.between_tokens_s,
            ),
            histogram(
                "e2e_request_latency_seconds",
                "From a job's arrival to an output's end.",
                self.whole_s,
            ),
            histogram(
                "request_queue_time_seconds",
                "From a job's arrival to when a step first names an output.",
                self.queue_s,
            ),
            histogram(
                "request_prefill_time_seconds",
                "From when a step first names an output to its first token.",
                self.prefill_s,
            ),
            histogram(
                "request_decode_time_seconds",
                "From an output's first token to its end.",
                self.decode_s,
            ),
            histogram(
                "request_prompt_tokens",
                "Prompt tokens of an output that ended.",
                self.prompt_tokens,
            ),
            histogram(
                "request_generation_tokens", "Tokens of an output that ended.", self.output_tokens
            ),
            counters(
                "request_success",
                "Outputs that ended in a lane, by reason.",
                "finished_reason",
                self.num_ended,
            ),
            counter("prompt_tokens", "Prompt tokens of what was let in.", self.num_prompt_tokens),
            counter("generation_tokens", "Tokens that workers chose.", self.num_output_tokens),
        ]
