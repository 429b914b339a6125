"""Means with intervals, where the class is the unit of chance.

Texts about one class resemble each other, so treating every text as independent gives intervals that are far too
narrow. Here every class counts equally (mean of class means), and the bootstrap resamples whole classes. Percentile
intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) are too narrow for few classes: about as
much as a normal interval that divides by n and takes z for t. They are expanded by just that (Hesterberg 2015, What Teachers
Should Know About the Bootstrap, section 3.4). Numpy and scipy, no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ex2.base.errors import UserError

_RESAMPLES_AT_ONCE = 1_000  # keeps the count matrix at 8 MB for 1,000 classes


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """``{"mean": ..., "low": ..., "high": ...}``, ready for JSON."""
        return asdict(self)


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
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


def cluster_bootstrap_mean(
    values: ArrayLike, clusters: ArrayLike, *, n_boot: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of the cluster means with a percentile bootstrap interval that resamples clusters.

    Args:
        values: ``(N,)`` finite numbers.
        clusters: ``(N,)`` label of the cluster (class) of each value.
        n_boot: Number of resamples.
        level: Coverage of the interval, between 0 and 1.
        seed: Equal seeds give equal intervals.

    Raises:
        ValueError: Shapes that do not match, ``n_boot`` < 1 or ``level`` outside (0, 1).
        UserError: Fewer than two clusters, or a value that is not finite.
    """
    _, means = cluster_means(values, clusters)
    return _bootstrap(means, n_boot, level, seed)


def paired_difference(
    values_a: ArrayLike,
    clusters_a: ArrayLike,
    values_b: ArrayLike,
    clusters_b: ArrayLike,
    *,
    n_boot: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over classes of (mean of a - mean of b), paired by class, with the bootstrap of ``cluster_bootstrap_mean``.

    Only classes that are in both count; the numbers of values per class may differ. Pairing removes the spread
    between classes, which both sides share.

    Raises:
        ValueError: As ``cluster_bootstrap_mean``.
        UserError: Fewer than two classes in both, or a value that is not finite.
    """
    labels_a, means_a = cluster_means(values_a, clusters_a)
    labels_b, means_b = cluster_means(values_b, clusters_b)
    _, in_a, in_b = np.intersect1d(labels_a, labels_b, assume_unique=True, return_indices=True)
    return _bootstrap(means_a[in_a] - means_b[in_b], n_boot, level, seed)


def _bootstrap(means: NDArray[np.float64], n_boot: int, level: float, seed: int) -> Interval:
    """Percentile interval for the mean of C independent numbers, by resampling them."""
    count = len(means)
    if n_boot < 1 or not 0 < level < 1:
        raise ValueError(f"n_boot must be at least 1 and level between 0 and 1, got {n_boot} and {level}")
    if count < 2:
        raise UserError(f"an interval needs at least two classes, found {count}; use a dataset with more classes")
    rng = np.random.default_rng(seed)
    chances = np.full(count, 1 / count)
    # A resample is how often each class was drawn, so all resampled means are one matrix product.
    sizes = [min(_RESAMPLES_AT_ONCE, n_boot - start) for start in range(0, n_boot, _RESAMPLES_AT_ONCE)]
    resampled = np.concatenate([rng.multinomial(count, chances, size=size) @ means / count for size in sizes])
    tail = expanded_tail(count, level)
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(means.mean()), float(low), float(high))


def expanded_tail(count: int, level: float = 0.95) -> float:
    """Share of resamples that an expanded percentile interval over `count` classes (two or more) leaves out on each side.

    It is the tail of a normal interval as wide as a t interval with the unbiased standard deviation.
    """
    return float(stats.norm.cdf(-np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)))


def sign_flip_p(means: ArrayLike, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of C independent numbers having a distribution symmetric about 0 (Fisher 1935).

    Every number's sign is flipped at random; p is the share of flips with a mean at least as far from 0, all flips being
    tried where there are few (2**C <= flips), and the observed one always counting.

    Raises:
        UserError: Fewer than two numbers, or one that is not finite.
    """
    means = np.asarray(means, dtype=np.float64)
    if not np.isfinite(means).all():  # every comparison with NaN is false, which would make p 0
        raise UserError(f"{np.count_nonzero(~np.isfinite(means))} of {len(means)} values are not finite")
    count = len(means)
    if count < 2:
        raise UserError(f"a test needs at least two classes, found {count}; use a dataset with more classes")
    if 2**count <= flips:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(flips, count))
        signs[0] = 1
    # Rounding must not make a flip that only reorders the sum count as nearer to 0 than the observed one.
    return float(np.mean(np.abs(signs @ means) >= abs(means.sum()) - 1e-9 * np.abs(means).sum()))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values corrected for being several (Holm 1979): step-down Bonferroni, in the given order."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return corrected
