"""Fits the costs of a step to measured steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from stepserve.protocol.errors import InvalidRequest
from stepserve_bench.simulator.cost import Costs, StepCosts, StepShape
from stepserve_bench.simulator.records import MeasuredStep, Recording, measured_steps

# Jitter of a report's arrival lengthens one period and shortens the next: so many neighbours
# are taken together.
_WINDOW = 4
_MIN_WINDOWS = 10
_ROUNDS = 20
_COUNTS = {
    "row_us": "num_rows",
    "group_us": "num_groups",
    "sampled_us": "num_sampled",
    "context_us": "num_context",
    "position_us": "num_positions",
    "pair_us": "num_pairs",
}


_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Costs, and how well they say the measured times again.

    ``error_mean`` is the mean relative error over windows of a few steps, ``num_steps`` how
    many steps were used.
    """

    costs: StepCosts
    num_steps: int
    error_mean: float
    period_us_mean: float

    @property
    def about(self) -> dict[str, float]:
        """What is to be known of the costs beside them."""
        return {
            "num_steps": self.num_steps,
            "error_mean": self.error_mean,
            "period_us_mean": self.period_us_mean,
        }


def fit_costs(steps: Sequence[MeasuredStep]) -> Fit:
    """Return the non-negative costs that explain the steps best.

    What disturbs a step (another process, a collection of garbage) disturbs long ones more
    often: the variance of a time grows with the time. That is a quasi-Poisson regression with
    an identity link (McCullagh and Nelder, "Generalized Linear Models", 1989, chapter 9), here
    with coefficients of at least 0; its fitted times add up to the measured ones. Raises
    InvalidRequest where there are too few steps.
    """
    windows = list(_windows(steps))
    if len(windows) < _MIN_WINDOWS:
        raise InvalidRequest("fit", f"{len(steps)} steps are too few, record more of them")
    counts = np.array([features for features, _ in windows])
    periods_us = np.array([period_us for _, period_us in windows])
    scales = np.maximum(counts.max(axis=0), 1.0)
    values = _regress(counts / scales, periods_us) / scales
    error = np.abs(counts @ values / periods_us - 1.0).mean()
    named: dict[str, Any] = dict(zip(("overhead_us", *_COUNTS), map(float, values), strict=True))
    num_steps = int(counts[:, 0].sum())
    return Fit(StepCosts(**named), num_steps, float(error), float(periods_us.sum() / num_steps))


def _regress(counts: _Floats, times: _Floats) -> _Floats:
    """Least squares, weighted by what the round before expects the variances to be."""
    expected = np.full_like(times, times.mean())
    values = np.zeros(counts.shape[1])
    for _ in range(_ROUNDS):
        weights = np.maximum(expected, 1e-3 * times.mean()) ** -0.5
        values = np.asarray(nnls(counts * weights[:, None], times * weights)[0], np.float64)
        expected = counts @ values
    return values * float(times.sum() / expected.sum())


def fit_recordings(recordings: Iterable[Recording]) -> tuple[Costs, dict[str, Fit]]:
    """Return costs for each attention that was recorded, and the fits they are from."""
    steps: dict[str, list[MeasuredStep]] = {}
    for recording in recordings:
        steps.setdefault(recording.attention, []).extend(measured_steps(recording))
    fits = {attention: fit_costs(measured) for attention, measured in steps.items()}
    return {attention: fit.costs for attention, fit in fits.items()}, fits


def _windows(steps: Sequence[MeasuredStep]) -> Iterable[tuple[list[float], float]]:
    """Yield what neighbouring steps counted and took together; a window is not cut short."""
    window: list[MeasuredStep] = []
    for step in steps:
        if not step.follows:
            window.clear()
        window.append(step)
        if len(window) == _WINDOW:
            columns = zip(*(_features(each.shape) for each in window), strict=True)
            period_us = sum(each.period_us for each in window)
            if period_us > 0:
                yield [sum(column) for column in columns], period_us
            window = []


def _features(shape: StepShape) -> list[float]:
    return [1.0, *map(float, attrgetter(*_COUNTS.values())(shape))]
