"""Means over classes and training runs, where both are chance: each run sees the same classes, so the two are crossed.

A value is the sum of a mean, an effect of its class, an effect of its run, and the rest. The variance of the mean of all values
is that of the class means plus that of the run means, less the rest, which is in both (two-way analysis of variance; the two-way
cluster estimate of Cameron, Gelbach and Miller 2011 is the same). A bootstrap would draw the same three runs again and again and
be too narrow by a fifth, and the Wald intervals of mixed models take the variance between three runs for known. Here each of
the two parts has the t quantile of its own degrees of freedom, and the parts are added in quadrature; `benchmarks/coverage.py`
has the coverage of that for 8 to 200 classes and 1 to 8 runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from ex2.stats.intervals import POWER

Array = NDArray[np.float64]

MOST_RUNS = 64
"""More are not asked for."""


@dataclass(frozen=True)
class Crossed:
    """A mean over classes and runs of one side, or the difference of two sides, with the two parts of its variance.

    Attributes:
        mean: The mean or difference.
        class_variance: Variance of the mean that comes from the classes.
        classes: Classes that it is over.
        run_variance: Variance of a single run's mean; NaN where one run a side says nothing about it.
        runs: Runs of each side.
        run_freedom: Degrees of freedom of `run_variance`.
    """

    mean: float
    class_variance: float
    classes: int
    run_variance: float
    runs: tuple[int, ...]
    run_freedom: float

    @property
    def from_runs(self) -> float:
        """Variance of the mean that comes from the runs."""
        return self.run_variance * sum(1 / runs for runs in self.runs)

    @property
    def share_of_runs(self) -> float:
        """Share of the variance that comes from the runs; NaN where that is not known."""
        total = self.from_runs + self.class_variance
        return self.from_runs / total if total > 0 else math.nan

    def half_width(self, level: float) -> float:
        """Half of the width of the interval at a level; NaN where other runs are not covered, or where nothing varies."""
        return self._reach((1 + level) / 2)

    def p(self) -> float:
        """Two-sided p-value: one minus the level at which the interval starts to hold 0."""
        smallest = 1e-9
        if math.isnan(self.half_width(0.95)):
            return math.nan
        if self.half_width(1 - smallest) <= abs(self.mean):
            return smallest
        return float(optimize.brentq(lambda p: self.half_width(1 - p) - abs(self.mean), smallest, 1.0))

    def detectable(self, level: float) -> float:
        """The effect that is seen with the chance `POWER`."""
        return self.half_width(level) + self._reach(POWER)

    def runs_needed(self, effect: float, level: float) -> int | None:
        """Runs a side with which an effect is seen with the chance `POWER` in the same classes; None: more than `MOST_RUNS`."""
        rate = self.run_freedom / max(sum(self.runs) - len(self.runs), 1)
        for runs in range(2, MOST_RUNS + 1):
            each = (runs,) * len(self.runs)
            if replace(self, runs=each, run_freedom=rate * (sum(each) - len(each))).detectable(level) <= effect:
                return runs
        return None

    def _reach(self, quantile: float) -> float:
        if math.isnan(self.run_variance):
            return math.nan
        parts = ((self.class_variance, self.classes - 1), (self.from_runs, self.run_freedom))
        squares = [float(stats.t.ppf(quantile, freedom)) ** 2 * variance for variance, freedom in parts if variance > 0]
        return math.sqrt(sum(squares)) if squares else math.nan


def over_runs(values: Array) -> Crossed:
    """The mean over classes and runs of one side.

    Args:
        values: ``(S, C)``, a row a run; NaN where a run has nothing about a class.
    """
    values = _seen(values)
    by_class, run_variance, rest = _parts(values)
    runs, classes = values.shape
    variance = by_class.var(ddof=1) / classes if classes > 1 else math.nan
    left = 0.0 if math.isnan(rest) else rest
    mean = float(by_class.mean()) if classes else math.nan
    return Crossed(mean, max(variance - left, 0.0), classes, run_variance, (runs,), runs - 1)


def between(first: Array, second: Array) -> Crossed:
    """The difference of two sides, paired by class; the variance between the runs of a side is taken to be the same on both.

    Args:
        first: ``(S, C)``, a row a run; NaN where a run has nothing about a class.
        second: ``(T, C)``, about the same classes.
    """
    both = ~(np.isnan(first).all(axis=0) | np.isnan(second).all(axis=0))
    sides = [_parts(values[:, both]) for values in (first, second)]
    runs = (len(first), len(second))
    freedom = sum(runs) - 2
    difference = sides[0][0] - sides[1][0]
    classes = len(difference)
    known = [(count - 1, variance) for count, (_, variance, _) in zip(runs, sides, strict=True) if count > 1]
    pooled = sum(weight * variance for weight, variance in known) / freedom if freedom else math.nan
    rest = sum(rest for *_, rest in sides if not math.isnan(rest))
    variance = float(difference.var(ddof=1)) / classes if classes > 1 else math.nan
    mean = float(difference.mean()) if classes else math.nan
    return Crossed(mean, max(variance - rest, 0.0), classes, pooled, runs, freedom)


def with_common_spread(shares: Mapping[str, Crossed], means: Mapping[str, float]) -> dict[str, Crossed]:
    """Differences of shares that add up to 1, with one measure of how much runs vary for all of them.

    With two or three runs a side the variance of a single share is hardly known. Were the shares of a run Dirichlet, the variance
    of each would be phi p (1 - p) with one phi; it is estimated from all of them, by the ratio of sums, and known with as many
    degrees of freedom as the shares are worth: the effective number of their covariance's eigenvalues times those of one.

    Args:
        shares: The difference of each share.
        means: The mean p of each.
    """
    p = np.clip([means[name] for name in shares], 0.0, 1.0)
    spread = p * (1 - p)
    if not spread.sum():
        return dict(shares)
    phi = sum(own.run_variance for own in shares.values()) / spread.sum()
    squares, cubes = float(np.sum(p**2)), float(np.sum(p**3))
    worth = (1 - squares) ** 2 / (squares - 2 * cubes + squares**2)
    return {
        name: replace(own, run_variance=float(phi * part), run_freedom=own.run_freedom * worth)
        for (name, own), part in zip(shares.items(), spread, strict=True)
    }


def _seen(values: Array) -> Array:
    """The classes that any run has something about."""
    return values[:, ~np.isnan(values).all(axis=0)]


def _parts(values: Array) -> tuple[Array, float, float]:
    """Class means ``(C,)``, variance of a single run's mean, and the part of the variance of the mean of all that is the rest.

    The latter two are NaN for one run. Run effects are means of what is left without the class means, so that a run that has
    nothing about a class is not taken for low or high because of it.
    """
    values = values[~np.isnan(values).all(axis=1)]
    runs, classes = values.shape
    by_class = np.nanmean(values, axis=0) if classes else np.empty(0)
    if runs < 2 or not classes:
        return by_class, math.nan, math.nan
    left = values - by_class
    effects = np.nanmean(left, axis=1)
    rest = np.nansum((left - effects[:, None]) ** 2) / max((runs - 1) * (classes - 1), 1)
    return by_class, float(effects.var(ddof=1)), float(rest) / (runs * classes)
