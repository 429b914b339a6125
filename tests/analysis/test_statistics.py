from __future__ import annotations

import time

import numpy as np
import pytest

from ex2.analysis.statistics import Interval, cluster_bootstrap_mean, cluster_means, paired_difference
from ex2.errors import UserError


def test_cluster_means_by_hand():
    labels, means = cluster_means([1.0, 2.0, 3.0, 10.0], ["b", "b", "b", "a"])
    assert labels.tolist() == ["a", "b"]
    assert means.tolist() == [10.0, 2.0]


def test_every_class_counts_equally():
    # The plain mean of the values would be 4.0.
    interval = cluster_bootstrap_mean([1.0, 2.0, 3.0, 10.0], [7, 7, 7, 3])
    assert interval.mean == 6.0
    # Two classes: a resample is (2, 2), (2, 10) or (10, 10) with chances 1/4, 1/2, 1/4, so the ends are the classes.
    assert (interval.low, interval.high) == (2.0, 10.0)
    # The middle half of those resamples lies within 6 on both sides, by hand.
    assert cluster_bootstrap_mean([2.0, 10.0], [0, 1], level=0.4) == Interval(6.0, 6.0, 6.0)


def test_equal_classes_have_a_point_for_an_interval():
    assert cluster_bootstrap_mean([0.25] * 6, [0, 0, 1, 1, 2, 2]) == Interval(0.25, 0.25, 0.25)


def test_bootstrap_agrees_with_resampling_class_by_class():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    values = rng.normal(size=len(clusters)) + rng.normal(size=30)[clusters]
    means = np.array([values[clusters == c].mean() for c in range(30)])
    slow = np.array([means[rng.integers(0, 30, 30)].mean() for _ in range(20_000)])
    interval = cluster_bootstrap_mean(values, clusters)
    assert interval.mean == pytest.approx(means.mean())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.02)


def test_coverage_is_near_nominal_and_would_not_be_without_clusters():
    """Gaussian classes around 0: 95 % intervals over classes cover 0; intervals over texts are far too narrow."""
    rng = np.random.default_rng(0)
    trials, classes, texts = 500, 40, 8
    clusters = np.repeat(np.arange(classes), texts)
    covered = covered_by_texts = 0
    for trial in range(trials):
        values = rng.normal(size=classes)[clusters] + 0.5 * rng.normal(size=len(clusters))
        by_class = cluster_bootstrap_mean(values, clusters, n_boot=500, seed=trial)
        by_text = cluster_bootstrap_mean(values, np.arange(len(values)), n_boot=200, seed=trial)
        covered += by_class.low <= 0 <= by_class.high
        covered_by_texts += by_text.low <= 0 <= by_text.high
    assert 0.91 <= covered / trials <= 0.97
    assert covered_by_texts / trials < 0.7


def test_seed_decides_and_level_widens():
    values, clusters = np.random.default_rng(2).normal(size=100), np.repeat(np.arange(20), 5)
    first = cluster_bootstrap_mean(values, clusters, n_boot=2_500, seed=3)
    assert first == cluster_bootstrap_mean(values, clusters, n_boot=2_500, seed=3)
    assert first != cluster_bootstrap_mean(values, clusters, n_boot=2_500, seed=4)
    wider = cluster_bootstrap_mean(values, clusters, n_boot=2_500, seed=3, level=0.99)
    assert wider.low < first.low < first.mean < first.high < wider.high


def test_order_of_values_does_not_matter():
    rng = np.random.default_rng(5)
    values, clusters = rng.normal(size=60), np.repeat(np.arange(12), 5)
    shuffled = rng.permutation(60)
    first, second = (
        cluster_bootstrap_mean(values, clusters),
        cluster_bootstrap_mean(values[shuffled], clusters[shuffled]),
    )
    assert list(first.as_dict().values()) == pytest.approx(list(second.as_dict().values()))


def test_paired_difference_by_hand_uses_common_classes_only():
    # Class means a: x 2, y 5, only_a 100; b: x 1, y 3, only_b -100. Differences 1 and 2.
    interval = paired_difference(
        [1.0, 3.0, 5.0, 100.0], ["x", "x", "y", "only_a"], [3.0, 1.0, -100.0], ["y", "x", "only_b"]
    )
    assert interval == Interval(1.5, 1.0, 2.0)


def test_pairing_removes_the_spread_between_classes():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(50), 4)
    base = rng.normal(size=50)[clusters] + 0.05 * rng.normal(size=200)
    aligned = base + 0.1 + 0.05 * rng.normal(size=200)
    difference = paired_difference(aligned, clusters, base, clusters)
    unpaired = cluster_bootstrap_mean(aligned, clusters)
    assert 0.05 < difference.low < difference.mean < difference.high < 0.15
    assert unpaired.high - unpaired.low > 5 * (difference.high - difference.low)
    opposite = paired_difference(base, clusters, aligned, clusters)
    assert opposite.mean == pytest.approx(-difference.mean)


def test_ten_thousand_resamples_of_two_hundred_classes_take_less_than_a_second():
    values, clusters = np.random.default_rng(0).normal(size=5_000), np.repeat(np.arange(200), 25)
    start = time.process_time()
    interval = cluster_bootstrap_mean(values, clusters)
    assert time.process_time() - start < 1
    assert interval.low < interval.mean < interval.high


@pytest.mark.parametrize(("values", "clusters", "found"), [([0.1, 0.2], [4, 4], 1), ([], [], 0)])
def test_one_class_has_no_interval(values, clusters, found):
    with pytest.raises(UserError, match=f"an interval needs at least two classes, found {found}"):
        cluster_bootstrap_mean(values, clusters)


def test_one_common_class_has_no_paired_interval():
    with pytest.raises(UserError, match="an interval needs at least two classes, found 1"):
        paired_difference([1.0, 2.0], [0, 1], [1.0, 2.0], [1, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match=r"1 of 3 values are not finite \(first: value 1, class b, (nan|inf)\)"):
        cluster_bootstrap_mean([0.1, bad, 0.3], ["a", "b", "c"])
    with pytest.raises(UserError, match="1 of 2 values are not finite"):
        paired_difference([0.1, 0.2], [0, 1], [0.1, bad], [0, 1])


def test_shapes_and_options_are_checked():
    with pytest.raises(ValueError, match=r"values and clusters must both be \(N,\), got \(2,\) and \(3,\)"):
        cluster_means([1.0, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match=r"got \(1, 2\)"):
        cluster_means([[1.0, 2.0]], [[0, 1]])
    with pytest.raises(ValueError, match="level between 0 and 1, got 10 and 95"):
        cluster_bootstrap_mean([1.0, 2.0], [0, 1], n_boot=10, level=95)
    with pytest.raises(ValueError, match="n_boot must be at least 1"):
        cluster_bootstrap_mean([1.0, 2.0], [0, 1], n_boot=0)
