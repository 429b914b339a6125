"""Means, intervals and p-values over classes, against hand-computed numbers, slow loops and simulations."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from ex2.base.errors import UserError
from ex2.stats.intervals import (
    SHARE,
    Interval,
    cluster_interval,
    cluster_means,
    detectable,
    detectable_accuracy,
    expanded_tail,
    holm,
    mean_interval,
    mean_p,
    paired_difference,
    standard_error,
    visible_accuracy,
)

SAMPLES = st.lists(st.integers(-50, 50).map(lambda tenths: tenths / 10), min_size=2, max_size=12)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


# ---------------------------------------------------------------- means and intervals


def test_cluster_means_by_hand():
    labels, means = cluster_means([1.0, 2.0, 3.0, 10.0], ["b", "b", "b", "a"])
    assert labels.tolist() == ["a", "b"]
    assert means.tolist() == [10.0, 2.0]


def test_every_class_counts_equally():
    # The plain mean of the values would be 4.0.
    interval = cluster_interval([1.0, 2.0, 3.0, 10.0], [7, 7, 7, 3])
    assert interval.mean == 6.0
    # Two numbers have no skewness: 6 +- t * sd / sqrt(2), with sd sqrt(32) and t 12.706 with one degree of freedom.
    assert [interval.low, interval.high] == pytest.approx([6 - 4 * 12.7062, 6 + 4 * 12.7062], abs=1e-3)


def test_ends_of_a_skewed_sample_by_hand():
    """Shares 0, 0, 0, 1: mean 1/4, sd 1/2, skewness (0.75^3 - 3 * 0.25^3) / 4 / (3 / 16)^1.5 = 2 / sqrt(3)."""
    t_quantile, skewness = 3.1824463, 2 / math.sqrt(3)

    def hall(y):
        return 3 / skewness * ((1 + skewness * (y / 2 - skewness / 24)) ** (1 / 3) - 1)

    interval = mean_interval([0, 0, 0, 1])
    # Below, Student's end is further away; above, Hall's, since what is rare in four classes may be less rare in others.
    assert interval.low == pytest.approx(0.25 - 0.5 * t_quantile / 2, abs=1e-6)
    assert 0.5 * t_quantile / 2 > 0.5 * hall(t_quantile)
    # The cube root of a negative number is real: 1 + g (y / 2 - g / 24) is -0.89 here.
    inside = 1 + skewness * (-t_quantile / 2 - skewness / 24)
    upper = 0.25 - 0.5 * 3 / skewness * (-((-inside) ** (1 / 3)) - 1)
    assert interval.high == pytest.approx(upper, abs=1e-6)
    assert upper > 0.25 + 0.5 * t_quantile / 2
    assert mean_interval([0, 0, 0, 1], bounds=SHARE) == Interval(0.25, 0.0, 1.0)


def test_without_skewness_it_is_students_interval():
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]) + 2
    half = t.ppf(0.975, 4) * math.sqrt(5 / 5)  # sd^2 = 20 / 4, n = 5
    interval = mean_interval(values)
    assert [interval.low, interval.high] == pytest.approx([2 - half, 2 + half])
    assert mean_p(values) == pytest.approx(2 * t.sf(2.0, 4))


@given(SAMPLES, st.floats(0.5, 0.999))
def test_interval_holds_zero_exactly_where_p_is_above_one_minus_level(values, level):
    p, interval = mean_p(values), mean_interval(values, level=level)
    if not interval.known:
        assert np.isnan(p)
        return
    assert 0 <= p <= 1
    if abs(p - (1 - level)) > 1e-9:
        assert (interval.low > 0 or interval.high < 0) == (p < 1 - level)
    assert interval.low <= interval.mean <= interval.high


@given(SAMPLES, st.randoms(), st.floats(0.01, 100), st.integers(-5, 5))
def test_interval_moves_with_order_sign_scale_and_shift(values, random, scale, shift):
    interval = mean_interval(values)
    if not interval.known:
        return
    ends = pytest.approx([interval.mean, interval.low, interval.high], rel=1e-6, abs=1e-6)
    assert list(mean_interval(random.sample(values, len(values))).as_dict().values()) == ends
    turned = mean_interval([-value for value in values])
    assert [-turned.mean, -turned.high, -turned.low] == ends
    moved = mean_interval([value * scale + shift for value in values])
    assert [(end - shift) / scale for end in (moved.mean, moved.low, moved.high)] == ends


def test_equal_classes_are_not_certainty():
    """No spread among the classes seen says nothing about others: no ends, no p-value, and words for it."""
    interval = cluster_interval([0.25] * 6, [0, 0, 1, 1, 2, 2])
    assert interval.mean == 0.25
    assert not interval.known
    assert interval.as_dict() == {"mean": 0.25, "low": None, "high": None}
    assert Interval.of(interval.as_dict()).shown("+.2f") == "+0.25 [cannot be told]"
    for spoiled in ({"mean": None}, {"mean": "x"}, {"low": 0.1}, {"high": []}):
        with pytest.raises(TypeError, match="is no interval"):
            Interval.of(interval.as_dict() | spoiled)
    assert np.isnan(mean_p([0.25] * 3))
    assert not mean_interval([0.1 + 0.2, 0.3, 0.3]).known  # they differ by rounding only
    assert mean_interval([1e-12, 0.0, 0.0]).known  # small, and yet different
    assert Interval(0.5, 0.25, 0.75).shown(".2f") == "0.50 [0.25, 0.75]"


def coverage(draw, mean, trials=1_500, seed=0):
    """Share of the 95 % intervals that hold the mean, among those that have ends."""
    rng = np.random.default_rng(seed)
    intervals = [mean_interval(draw(rng)) for _ in range(trials)]
    return np.mean([interval.low <= mean <= interval.high for interval in intervals if interval.known])


@pytest.mark.parametrize("classes", [10, 30])
@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda rng, n: rng.normal(size=n), 0),
        (lambda rng, n: rng.exponential(size=n), 1),
        (lambda rng, n: rng.binomial(8, rng.beta(0.6, 2.4, size=n)) / 8, 0.2),  # a share that classes differ in
    ],
    ids=["normal", "exponential", "share"],
)
def test_coverage_is_nominal_for_few_and_skewed_classes(draw, mean, classes):
    """Standard error of the shares: 0.006. benchmarks/coverage.py has rarer shares, and the bootstraps beside."""
    assert 0.93 <= coverage(lambda rng: draw(rng, classes), mean) <= 0.98


def test_texts_are_no_classes():
    """Gaussian classes around 0: 95 % intervals over classes cover 0; intervals over texts are far too narrow."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 8)
    covered = {"class": 0, "text": 0}
    for _ in range(500):
        values = rng.normal(size=40)[clusters] + 0.5 * rng.normal(size=320)
        for what, own in (("class", clusters), ("text", np.arange(320))):
            interval = cluster_interval(values, own)
            covered[what] += interval.low <= 0 <= interval.high
    assert 0.93 <= covered["class"] / 500 <= 0.97
    assert covered["text"] / 500 < 0.7


def test_level_widens():
    values = np.random.default_rng(2).normal(size=20)
    narrow, wide = mean_interval(values), mean_interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


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


def test_paired_difference_by_hand_uses_common_classes_only():
    # Class means a: x 2, y 5, only_a 100; b: x 1, y 3, only_b -100. Differences 1 and 2.
    interval = paired_difference(
        [1.0, 3.0, 5.0, 100.0], ["x", "x", "y", "only_a"], [3.0, 1.0, -100.0], ["y", "x", "only_b"]
    )
    assert interval == mean_interval([1.0, 2.0])
    assert interval.mean == 1.5


def test_pairing_removes_the_spread_between_classes():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(50), 4)
    base = rng.normal(size=50)[clusters] + 0.05 * rng.normal(size=200)
    aligned = base + 0.1 + 0.05 * rng.normal(size=200)
    difference = paired_difference(aligned, clusters, base, clusters)
    unpaired = cluster_interval(aligned, clusters)
    assert 0.05 < difference.low < difference.mean < difference.high < 0.15
    assert unpaired.high - unpaired.low > 5 * (difference.high - difference.low)
    opposite = paired_difference(base, clusters, aligned, clusters)
    assert opposite.mean == pytest.approx(-difference.mean)


@pytest.mark.parametrize(("values", "clusters", "found"), [([0.1, 0.2], [4, 4], 1), ([], [], 0)])
def test_one_class_has_no_interval(values, clusters, found):
    with pytest.raises(UserError, match=f"an interval needs at least two classes, found {found}"):
        cluster_interval(values, clusters)


def test_one_common_class_has_no_paired_interval():
    with pytest.raises(UserError, match="an interval needs at least two classes, found 1"):
        paired_difference([1.0, 2.0], [0, 1], [1.0, 2.0], [1, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(UserError, match=r"1 of 3 values are not finite \(first: value 1, class b, (nan|inf)\)"):
        cluster_interval([0.1, bad, 0.3], ["a", "b", "c"])
    with pytest.raises(UserError, match="1 of 2 values are not finite"):
        paired_difference([0.1, 0.2], [0, 1], [0.1, bad], [0, 1])


def test_shapes_and_options_are_checked():
    with pytest.raises(ValueError, match=r"values and clusters must both be \(N,\), got \(2,\) and \(3,\)"):
        cluster_means([1.0, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match=r"got \(1, 2\)"):
        cluster_means([[1.0, 2.0]], [[0, 1]])
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 95"):
        cluster_interval([1.0, 2.0], [0, 1], level=95)


# ---------------------------------------------------------------- p-values and power


def test_p_is_uniform_where_nothing_is_there():
    """Of numbers around 0, skewed or not, a share q has a p of at most about q; and what is there is found."""
    rng = np.random.default_rng(0)
    for draw in (lambda: rng.standard_t(5, size=12), lambda: rng.exponential(size=12) - 1):
        p_values = np.array([mean_p(draw()) for _ in range(2_000)])
        for q in (0.05, 0.2, 0.5):
            assert np.mean(p_values <= q) < q + 0.035
    assert np.mean([mean_p(rng.normal(1.5, 1, size=12)) < 0.05 for _ in range(100)]) > 0.9


def test_detectable_is_seen_as_often_as_it_says():
    """Standard deviation 1, 20 classes: an effect of (2.093 + 0.861) / sqrt(20) = 0.6605 is seen in about 80 %."""
    effect = detectable(1 / math.sqrt(20), 19)
    assert effect == pytest.approx(0.6605, abs=1e-4)
    rng = np.random.default_rng(0)
    assert np.mean([mean_p(rng.normal(effect, 1, size=20)) < 0.05 for _ in range(1_000)]) == pytest.approx(
        0.8, abs=0.04
    )
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert np.isnan(standard_error([1.0]))


def test_what_accuracy_can_be_seen_before_a_run_by_hand():
    """8 classes of 40 images, one in ten answered differently: sqrt(0.1 / 40 / 8) times 2.365 + 0.896 is 5.8 points."""
    assert detectable_accuracy(8, 40) == pytest.approx(math.sqrt(0.1 / 320) * (2.3646 + 0.8960), abs=1e-4)
    assert visible_accuracy(8, 40).startswith(
        "8 classes with 40 held-out images each: no difference of accuracy below 6 points will be seen"
    )
    # As often as it says: images that both ways answer alike do not matter, of the others each way has half.
    rng = np.random.default_rng(0)
    effect, images, classes = detectable_accuracy(30, 50), 50, 30
    better, worse = (0.1 + effect) / 2, (0.1 - effect) / 2
    seen = 0
    for _ in range(600):
        draws = rng.multinomial(images, [better, worse, 1 - better - worse], size=classes)
        seen += mean_p((draws[:, 0] - draws[:, 1]) / images) < 0.05
    assert seen / 600 == pytest.approx(0.8, abs=0.06)


def test_one_class_and_numbers_that_are_not_finite_have_no_p():
    with pytest.raises(UserError, match="a test needs at least two classes, found 1; use a dataset with more classes"):
        mean_p([0.3])
    with pytest.raises(UserError, match="2 of 3 values are not finite"):
        mean_p([np.nan, 0.3, np.inf])


# ---------------------------------------------------------------- several tests


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last must not fall below the third.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]).tolist() == [1.0, 1.0]
    assert holm([0.02]).tolist() == [0.02]
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    assert holm([]).tolist() == []
    # NaN is no test: the others are corrected for being two.
    assert holm([np.nan, 0.01, 0.04]) == pytest.approx([np.nan, 0.02, 0.04], nan_ok=True)


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
