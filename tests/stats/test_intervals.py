"""Means, intervals and p-values over classes, against hand-computed numbers, slow loops and simulations."""

from __future__ import annotations

import math
import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from ex2.base.errors import UserError
from ex2.stats.intervals import (
    Interval,
    cluster_bootstrap_mean,
    cluster_means,
    expanded_tail,
    holm,
    paired_difference,
    sign_flip_p,
)

NUMBERS = st.lists(st.integers(-50, 50).map(lambda tenths: tenths / 10), min_size=2, max_size=9)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


# ---------------------------------------------------------------- means and intervals


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


def test_two_classes_at_low_levels_by_hand():
    # With one degree of freedom t's quantile is tan(pi (q - 1/2)), here of q = (1 + level) / 2: so tan(pi level / 2).
    # Level 0.4: sqrt(2) tan(0.2 pi) = 1.0275, tail 0.152 < 1/4, so the ends are the classes. Plain percentiles with their
    # tail of 0.3 would give the middle alone.
    assert expanded_tail(2, 0.4) == pytest.approx(norm.cdf(-math.sqrt(2) * math.tan(0.2 * math.pi)))
    assert cluster_bootstrap_mean([2.0, 10.0], [0, 1], level=0.4) == Interval(6.0, 2.0, 10.0)
    # Level 0.2: sqrt(2) tan(0.1 pi) = 0.4595, tail 0.323 > 1/4.
    assert cluster_bootstrap_mean([2.0, 10.0], [0, 1], level=0.2) == Interval(6.0, 6.0, 6.0)


def test_expansion_is_that_of_t_over_z_and_of_an_unbiased_spread():
    for count, level in product((2, 5, 30), (0.5, 0.95, 0.99)):
        expected = norm.cdf(-np.sqrt(count / (count - 1)) * t.ppf((1 + level) / 2, count - 1))
        assert expanded_tail(count, level) == pytest.approx(expected, rel=1e-12)
    # Five classes, from tables: t's quantile is 2.776 with 4 degrees of freedom, times sqrt(5 / 4) is 3.104, and beyond that
    # lies 0.00095 of a normal distribution: the tail is a 26th of 0.025.
    assert expanded_tail(5) == pytest.approx(0.00095, abs=1e-5)
    tails = [expanded_tail(count) for count in range(2, 200)]
    assert tails == sorted(tails)  # the more classes, the less expansion
    assert expanded_tail(1_000_000) == pytest.approx(0.025, abs=1e-6)


def test_equal_classes_have_a_point_for_an_interval():
    assert cluster_bootstrap_mean([0.25] * 6, [0, 0, 1, 1, 2, 2]) == Interval(0.25, 0.25, 0.25)


def test_bootstrap_agrees_with_resampling_class_by_class():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    values = rng.normal(size=len(clusters)) + rng.normal(size=30)[clusters]
    means = np.array([values[clusters == c].mean() for c in range(30)])
    slow = np.array([means[rng.integers(0, 30, 30)].mean() for _ in range(20_000)])
    tail = norm.cdf(-np.sqrt(30 / 29) * t.ppf(0.975, 29))
    assert tail < 0.02  # not the plain 0.025
    interval = cluster_bootstrap_mean(values, clusters)
    assert interval.mean == pytest.approx(means.mean())
    assert [interval.low, interval.high] == pytest.approx(np.quantile(slow, [tail, 1 - tail]), abs=0.02)
    assert interval.low < np.quantile(slow, 0.025)
    assert interval.high > np.quantile(slow, 0.975)


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
    assert 0.93 <= covered / trials <= 0.97
    assert covered_by_texts / trials < 0.7


def test_few_classes_are_covered_too_and_would_not_be_by_plain_percentiles():
    """Eight Gaussian classes: 95 % intervals cover about 95 %, plain percentiles of the same resamples about 90 %."""
    rng = np.random.default_rng(0)
    trials, classes = 1_500, 8
    covered = plain = 0
    for trial in range(trials):
        values = rng.normal(size=classes)
        interval = cluster_bootstrap_mean(values, np.arange(classes), n_boot=1_000, seed=trial)
        low, high = np.quantile(values[rng.integers(0, classes, (1_000, classes))].mean(axis=1), [0.025, 0.975])
        covered += interval.low <= 0 <= interval.high
        plain += low <= 0 <= high
    # Standard error of both shares: less than 0.009.
    assert 0.93 <= covered / trials <= 0.965
    assert plain / trials < 0.91


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


# ---------------------------------------------------------------- sign flips


def test_sign_flips_of_three_numbers_by_hand():
    # Of the 8 sums +-1 +-2 +-4 only 7 and -7 are as far from 0 as 7.
    assert sign_flip_p([1.0, 2.0, 4.0]) == 2 / 8
    # 3 - 1 + 2 = 4. The sums +-3 +-1 +-2 are 6, 2, 4, 0 and their negatives: 6, 4, -4, -6 count.
    assert sign_flip_p([3.0, -1.0, 2.0]) == 4 / 8
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0
    # 0.1 + 0.2 - 0.3 is 2.8e-17, and 0.1 - 0.3 + 0.2 is -2.8e-17 or 0: all of them are 0 but for rounding.
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0


def test_smallest_p_that_a_number_of_classes_allows():
    """All classes agree: only the flip of all signs is as extreme. Corrected for four, nothing below eight classes counts."""
    assert [sign_flip_p(np.arange(1.0, count + 1)) for count in (2, 5, 7, 8)] == [2 / 4, 2 / 32, 2 / 128, 2 / 256]
    # More classes than can be tried out: the observed one counts, so p is never 0.
    assert sign_flip_p(np.ones(40), flips=1_000) == 1 / 1_000


@given(NUMBERS, st.randoms(), st.floats(0.01, 100))
def test_p_is_the_share_of_flips_whatever_the_order_sign_and_scale(means, random, scale):
    flips = product((1, -1), repeat=len(means))
    totals = [sum(sign * value for sign, value in zip(flip, means, strict=True)) for flip in flips]
    p = np.mean([abs(total) >= abs(sum(means)) - 1e-9 for total in totals])
    assert sign_flip_p(means) == p
    assert sign_flip_p(random.sample(means, len(means))) == p
    assert sign_flip_p([-value for value in means]) == p
    assert sign_flip_p([value * scale for value in means]) == p
    assert 2 / 2 ** len(means) <= p <= 1


def test_p_is_uniform_where_nothing_is_there():
    """Of symmetric numbers without a difference, a share q has a p of at most q: for every q that 6 classes can give."""
    rng = np.random.default_rng(0)
    p_values = np.array([sign_flip_p(rng.standard_t(3, size=6)) for _ in range(4_000)])
    for q in (1 / 32, 4 / 32, 16 / 32, 30 / 32):
        assert np.mean(p_values <= q + 1e-9) == pytest.approx(q, abs=4 * math.sqrt(q * (1 - q) / 4_000))
    assert np.mean([sign_flip_p(rng.normal(1.5, 1, size=12)) < 0.05 for _ in range(100)]) > 0.9  # and it finds what is


def test_random_flips_agree_with_all_flips():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 0.6):
        means = rng.normal(shift, 1, size=13)
        exact, drawn = sign_flip_p(means), sign_flip_p(means, flips=8_000, seed=1)  # 2^13 = 8192
        assert drawn == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 8_000))
        assert drawn == sign_flip_p(means, flips=8_000, seed=1)
        assert drawn != sign_flip_p(means, flips=8_000, seed=2)


def test_one_class_and_numbers_that_are_not_finite_have_no_p():
    with pytest.raises(UserError, match="a test needs at least two classes, found 1; use a dataset with more classes"):
        sign_flip_p([0.3])
    with pytest.raises(UserError, match="2 of 3 values are not finite"):
        sign_flip_p([np.nan, 0.3, np.inf])


# ---------------------------------------------------------------- several tests


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last must not fall below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    assert holm([]).tolist() == []


@given(P_VALUES, st.floats(0.001, 0.999), st.randoms())
def test_holm_rejects_what_stepping_down_rejects(p_values, level, random):
    corrected = holm(p_values)
    # Holm's own words: go up the sorted p-values as long as they are below level / (tests left).
    rejected = set()
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] * (len(p_values) - place) > level:
            break
        rejected.add(i)
    assert {i for i, p in enumerate(corrected) if p <= level} == rejected
    assert all(p <= c <= min(1.0, len(p_values) * p) for p, c in zip(p_values, corrected, strict=True))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]).tolist() == corrected[order].tolist()
