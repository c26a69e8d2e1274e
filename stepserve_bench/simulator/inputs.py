"""From the command's words to what is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from stepserve.protocol.choices import Attention, Batching
from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.simulator.streams import Stream
from stepserve_bench.simulator.system import System
from stepserve_bench.workloads.arrivals import (
    AllAtOnce,
    Arrivals,
    Bursty,
    ClosedLoop,
    OnOff,
    Poisson,
)
from stepserve_bench.workloads.lengths import (
    Bounds,
    FixedLengths,
    JobLengths,
    ShareGPTLengths,
    UniformLengths,
)

ArrivalKind = Literal["auto", "once", "poisson", "bursty", "onoff", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The jobs that are asked for; the command's help says what each is."""

    jobs: int
    lengths: JobLengths
    arrivals: ArrivalKind = "auto"
    clients: int = 64
    burst_variation: float = 3.0
    burst_s: tuple[float, float] = (1.0, 4.0)
    max_tokens: int = 0
    prefix_tokens: int = 0
    tenants: Mapping[str, float] = field(default_factory=dict)
    urgent_share: float = 0.0
    urgent_priority: int = 10
    storm_rate: float = 0.0
    storm_prompt: int = 2048

    def streams(self, rate: float) -> tuple[Stream, ...]:
        """Return the streams that come ``rate`` times a second together; 0: all at once.

        Each tenant has its share of the jobs and of the rate; a storm comes beside them, and
        no longer than they would at that rate. Raises InvalidRequest.
        """
        tenants = self.tenants or {"": 1.0}
        total = sum(tenants.values())
        streams = [
            Stream(
                arrivals=self._arrivals(rate * weight / total, weight / total),
                lengths=self.lengths,
                num_jobs=max(1, round(self.jobs * weight / total)),
                tenant=tenant,
                urgent_share=self.urgent_share,
                urgent_priority=self.urgent_priority,
                max_tokens=self.max_tokens,
                prefix_tokens=self.prefix_tokens,
            )
            for tenant, weight in tenants.items()
        ]
        if self.storm_rate:
            if not rate:
                raise InvalidRequest("storm_rate", "a storm needs --rate or --load beside it")
            streams.append(self._storm(self.jobs / rate))
        return tuple(streams)

    def _storm(self, duration_s: float) -> Stream:
        return Stream(
            arrivals=Poisson(self.storm_rate),
            lengths=FixedLengths(self.storm_prompt, 16),
            num_jobs=10**9,
            until_s=duration_s,
        )

    def _arrivals(self, rate: float, share: float) -> Arrivals:
        kind = self.arrivals
        if kind == "auto":
            kind = "poisson" if rate else "once"
        if kind == "once":
            return AllAtOnce()
        if kind == "closed":
            return ClosedLoop(max(1, round(self.clients * share)))
        if not rate:
            raise InvalidRequest("arrivals", f"{kind} needs --rate or --load")
        if kind == "poisson":
            return Poisson(rate)
        if kind == "bursty":
            return Bursty(rate, self.burst_variation)
        on_s, off_s = self.burst_s
        return OnOff(rate * (on_s + off_s) / on_s, on_s, off_s)


def parse_lengths(text: str, max_context: int, scale: float) -> JobLengths:
    """Return the lengths that ``--lengths`` names. Raises InvalidRequest."""
    kind, _, numbers = text.partition(":")
    try:
        values = [int(number) for number in numbers.split(",") if number]
        if kind == "sharegpt" and not values:
            return ShareGPTLengths(max_context, scale)
        if min(values) >= 1 and kind == "fixed" and len(values) == 2:
            return FixedLengths(*values)
        if min(values) >= 1 and kind == "uniform" and len(values) == 4:
            return UniformLengths(Bounds(*values[:2]), Bounds(*values[2:]))
    except ValueError:
        pass
    form = "sharegpt, fixed:PROMPT,OUTPUT, or uniform:LOW,HIGH,LOW,HIGH"
    raise InvalidRequest("lengths", f"{text!r} is not {form}")


def parse_weights(text: str) -> dict[str, float]:
    """Return ``a=2,b=1`` as a mapping. Raises InvalidRequest."""
    weights = {}
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            raise InvalidRequest("tenants", f"{item!r} is not NAME=NUMBER") from None
        if not 0 < weights[name.strip()] < float("inf"):
            raise InvalidRequest("tenants", f"{item!r}: the number must be positive")
    return weights


def parse_loads(text: str) -> list[float]:
    """Return ``0.3,0.6`` as numbers. Raises InvalidRequest."""
    try:
        loads = [float(item) for item in text.split(",")]
    except ValueError:
        loads = []
    if not loads or min(loads) <= 0:
        raise InvalidRequest("loads", f"{text!r} is not a list of positive numbers")
    return loads


def parse_systems(text: str, base: System) -> list[System]:
    """Return ``base`` as each BATCHING+ATTENTION of the list. Raises InvalidRequest."""
    systems = []
    for name in filter(None, text.split(",")):
        batching, _, attention = name.strip().partition("+")
        if batching not in get_args(Batching) or attention not in get_args(Attention):
            raise InvalidRequest("systems", f"{name!r} is not BATCHING+ATTENTION")
        systems.append(replace(base, batching=batching, attention=attention))  # type: ignore[arg-type]
    return systems or [base]
