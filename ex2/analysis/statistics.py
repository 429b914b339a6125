"""Means with intervals, where the class is the unit of chance.

Texts about one class resemble each other, so treating every text as independent gives intervals that are far too
narrow. Here every class counts equally (mean of class means), and the bootstrap resamples whole classes (percentile
intervals, Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Plain numpy, no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ex2.errors import UserError

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
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(means.mean()), float(low), float(high))
