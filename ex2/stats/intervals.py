"""Means with intervals and p-values, where the class is the unit of chance.

Texts about one class resemble each other, so treating every text as independent gives intervals that are far too
narrow. Here every class counts equally (mean of class means), and chance is about which classes there are.

Class means are often skewed: shares of what is rarely said are 0 for most classes. Student's t interval then misses the mean too
often on one side. Hall's transformation takes the skewness out of the t statistic (Hall 1992, On the Removal of Skewness by
Transformation, J. R. Stat. Soc. B 54, equation 2.4), but is misled where the skewness seen in a few classes is itself chance.
An interval here is as wide as the wider of the two at each end, and a p-value the larger of the two, so that interval and
p-value never disagree. `benchmarks/coverage.py` compares this with the bootstraps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ex2.base.errors import UserError

Array = NDArray[np.float64]

UNBOUNDED = (-math.inf, math.inf)
SHARE = (0.0, 1.0)
"""Bounds of a mean that is a share."""

DIFFERENCE = (-1.0, 1.0)
"""Bounds of a mean that is a difference of shares."""

POWER = 0.8
"""Chance of seeing an effect, where it is said how large one must be to be seen."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval, in the unit of the values; ends of NaN where they cannot be told."""

    mean: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there are ends."""
        return not math.isnan(self.low)

    def as_dict(self) -> dict[str, float | None]:
        """``{"mean": ..., "low": ..., "high": ...}``, ready for JSON: None for an end that cannot be told."""
        ends = {"low": self.low, "high": self.high}
        return {"mean": self.mean, **{name: end if self.known else None for name, end in ends.items()}}

    @classmethod
    def of(cls, ends: dict[str, Any]) -> Interval:
        """The interval that `as_dict` made; KeyError or TypeError where it made no such thing."""
        mean, low, high = (ends[name] for name in ("mean", "low", "high"))
        if low is None and high is None:
            low = high = math.nan
        if not all(isinstance(number, (int, float)) for number in (mean, low, high)):
            raise TypeError(f"{ends} is no interval")
        return cls(mean, low, high)

    def shown(self, form: str) -> str:
        """``0.12 [0.10, 0.14]``, each number in this format."""
        return f"{self.mean:{form}} {bracket(self.low, self.high, form)}"


def bracket(low: float | None, high: float | None, form: str) -> str:
    """``[0.10, 0.14]``, each number in this format, and words where the ends cannot be told."""
    if low is None or high is None or math.isnan(low):
        return "[cannot be told]"
    return f"[{low:{form}}, {high:{form}}]"


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[Any], Array]:
    """Sorted cluster labels ``(C,)`` and the mean of each cluster's values ``(C,)``.

    Args:
        values: ``(N,)`` finite numbers.
        clusters: ``(N,)`` label of the cluster (class) of each value, integers or strings.

    Raises:
        ValueError: Shapes that do not match.
        UserError: A value that is NaN or infinite.
    """
    values, clusters = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if values.ndim != 1 or values.shape != clusters.shape:
        raise ValueError(f"values and clusters must both be (N,), got {values.shape} and {clusters.shape}")
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(
            f"{np.count_nonzero(~np.isfinite(values))} of {len(values)} values are not finite "
            f"(first: value {first}, class {clusters[first]}, {values[first]}); score these texts again or drop them"
        )
    labels, positions = np.unique(clusters, return_inverse=True)
    return labels, np.bincount(positions, weights=values, minlength=len(labels)) / np.bincount(positions)


def cluster_interval(
    values: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, bounds: tuple[float, float] = UNBOUNDED
) -> Interval:
    """Mean of the cluster means with its interval; see `mean_interval`.

    Args:
        values: ``(N,)`` finite numbers.
        clusters: ``(N,)`` label of the cluster (class) of each value.
        level: Coverage of the interval, between 0 and 1.
        bounds: What the mean can be, (0, 1) for a share: the interval ends there.

    Raises:
        ValueError: Shapes that do not match, or ``level`` outside (0, 1).
        UserError: Fewer than two clusters, or a value that is not finite.
    """
    return mean_interval(cluster_means(values, clusters)[1], level=level, bounds=bounds)


def paired_difference(
    values_a: ArrayLike,
    clusters_a: ArrayLike,
    values_b: ArrayLike,
    clusters_b: ArrayLike,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Interval:
    """Mean over classes of (mean of a - mean of b), paired by class, with the interval of `mean_interval`.

    Only classes that are in both count; the numbers of values per class may differ. Pairing removes the spread
    between classes, which both sides share.

    Raises:
        ValueError: As `cluster_interval`.
        UserError: Fewer than two classes in both, or a value that is not finite.
    """
    labels_a, means_a = cluster_means(values_a, clusters_a)
    labels_b, means_b = cluster_means(values_b, clusters_b)
    _, in_a, in_b = np.intersect1d(labels_a, labels_b, assume_unique=True, return_indices=True)
    return mean_interval(means_a[in_a] - means_b[in_b], level=level, bounds=bounds)


def mean_interval(means: ArrayLike, *, level: float = 0.95, bounds: tuple[float, float] = UNBOUNDED) -> Interval:
    """Interval for the mean of C independent numbers, one a class; no ends where all of them are equal.

    Equal numbers would give an interval without width, which is not certainty: the classes seen say nothing about how much
    others vary.

    Raises:
        ValueError: ``level`` outside (0, 1).
        UserError: Fewer than two numbers, or one that is not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    means = _checked(means, "an interval")
    mean, deviation, skewness = _moments(means)
    if not deviation:
        return Interval(mean, math.nan, math.nan)
    quantile = float(stats.t.ppf((1 + level) / 2, len(means) - 1))
    plain = quantile / math.sqrt(len(means))
    below = max(plain, _with_skewness(quantile, skewness, len(means)))
    above = max(plain, -_with_skewness(-quantile, skewness, len(means)))
    return Interval(mean, max(mean - deviation * below, bounds[0]), min(mean + deviation * above, bounds[1]))


def mean_p(means: ArrayLike) -> float:
    """Two-sided p-value of C independent numbers having mean 0: the level at which `mean_interval` starts to hold 0.

    NaN where all numbers are equal, since nothing can be told from them.

    Raises:
        UserError: Fewer than two numbers, or one that is not finite.
    """
    means = _checked(means, "a test")
    mean, deviation, skewness = _moments(means)
    if not deviation:
        return math.nan
    plain = mean / deviation
    corrected = plain * (1 + skewness * plain / 3 + (skewness * plain) ** 2 / 27) + skewness / (6 * len(means))
    # The one that is nearer to 0; where they lie on both sides of it, 0.
    nearer = max(min(plain, corrected), min(-plain, -corrected), 0.0)
    return float(2 * stats.t.sf(math.sqrt(len(means)) * nearer, len(means) - 1))


def detectable(error: float, freedom: float, *, level: float = 0.95, power: float = POWER) -> float:
    """The smallest effect that a two-sided test sees with the chance `power`.

    Args:
        error: Standard error of the estimate.
        freedom: Degrees of freedom that the error is known with.
        level: One minus the test's size.
        power: Chance of seeing the effect.
    """
    return error * float(stats.t.ppf((1 + level) / 2, freedom) + stats.t.ppf(power, freedom))


OTHERWISE = 0.1
"""Share of images that two ways of classifying answer differently, where it is said before a run what will be seen."""


def detectable_accuracy(classes: int, images: float) -> float:
    """The smallest difference of accuracy that is seen with the chance `POWER`, before anything is classified.

    Two ways that answer a share `OTHERWISE` of the images differently, each as often rightly, differ in a class of n images by
    chance with a standard deviation of sqrt(OTHERWISE / n).

    Args:
        classes: Two or more.
        images: Images of a class.
    """
    return detectable(math.sqrt(OTHERWISE / images / classes), classes - 1)


def visible_accuracy(classes: int, images: float) -> str:
    """`detectable_accuracy` in words."""
    points = f"{100 * detectable_accuracy(classes, images):.0f} points"
    return (
        f"{classes} classes with {images:g} held-out images each: no difference of accuracy below {points} will be seen (power "
        f"{POWER:g}, {OTHERWISE:.0%} of the images answered differently)."
    )


def standard_error(means: ArrayLike) -> float:
    """Standard error of the mean of C independent numbers, NaN for fewer than two."""
    means = np.asarray(means, dtype=np.float64)
    return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan


def _checked(means: ArrayLike, what: str) -> Array:
    means = np.asarray(means, dtype=np.float64)
    if not np.isfinite(means).all():  # every comparison with NaN is false, which would make p 0
        raise UserError(f"{np.count_nonzero(~np.isfinite(means))} of {len(means)} values are not finite")
    if len(means) < 2:
        raise UserError(f"{what} needs at least two classes, found {len(means)}; use a dataset with more classes")
    return means


def _moments(means: Array) -> tuple[float, float, float]:
    """Mean, standard deviation (0 where the numbers differ by rounding only) and skewness."""
    mean = float(means.mean())
    offsets = means - mean
    spread = float(np.abs(offsets).max())
    if spread <= 1e-9 * float(np.abs(means).max()):
        return mean, 0.0, 0.0
    scaled = offsets / spread  # so that no power underflows
    variance = float(np.mean(scaled**2))
    return mean, float(means.std(ddof=1)), float(np.mean(scaled**3)) / variance**1.5


def _with_skewness(quantile: float, skewness: float, count: int) -> float:
    """(Sample mean - mean) / standard deviation at which the statistic without skewness is `quantile`: Hall's inverse."""
    plain = quantile / math.sqrt(count)
    if abs(skewness) < 1e-6:
        return plain
    return 3 / skewness * float(np.cbrt(1 + skewness * (plain - skewness / (6 * count))) - 1)


def expanded_tail(count: int, level: float = 0.95) -> float:
    """Share of resamples that an expanded percentile interval over `count` classes (two or more) leaves out on each side.

    For statistics that are no means. Percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
    13) are too narrow for few classes: about as much as a normal interval that divides by n and takes z for t. They are expanded
    by just that (Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 3.4).
    """
    return float(stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)))


def holm(p_values: ArrayLike) -> Array:
    """p-values corrected for being several (Holm 1979): step-down Bonferroni, in the given order; NaN, no test, stays NaN."""
    given = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested])]
    factors = len(tested) - np.arange(len(tested))
    corrected = np.full_like(given, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * factors), 1.0)
    return corrected
