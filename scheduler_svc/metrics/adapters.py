"""That no adapters are served, in the words of those who choose servers by their adapters."""

from __future__ import annotations

import time
from collections.abc import Iterable

from stepserve.metrics.family import Family


class Adapters:
    """What the Gateway API inference extension's endpoint picker asks of LoRA: there is none.

    Its protocol has the time as the value, so that the newest of several is found.
    """

    def families(self) -> Iterable[Family]:
        """Return it, as of now."""
        labels = (
            ("max_lora", "0"),
            ("running_lora_adapters", ""),
            ("waiting_lora_adapters", ""),
        )
        help_ = "LoRA adapters that run and that wait: none, they are not served."
        yield Family("gauge", "lora_requests_info", help_, {labels: time.time()})
