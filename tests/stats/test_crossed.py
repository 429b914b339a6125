"""Means over classes and runs: their two parts by hand, and intervals that hold where runs differ as runs do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from ex2.stats.crossed import Crossed, between, over_runs, with_common_spread

# Two runs, three classes: class means 1, 2, 6, run means 2 and 4, and nothing is left beyond these.
PLAIN = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 7.0]])


def test_parts_by_hand() -> None:
    own = over_runs(PLAIN)
    assert (own.mean, own.classes, own.runs, own.run_freedom) == (3.0, 3, (2,), 1)
    assert own.class_variance == pytest.approx(7 / 3)  # (4 + 1 + 9) / 2, of three classes
    assert own.run_variance == pytest.approx(2.0)  # of 2 and 4
    assert own.from_runs == pytest.approx(1.0)
    assert own.share_of_runs == pytest.approx(1 / (1 + 7 / 3))
    reach = math.sqrt(t.ppf(0.975, 2) ** 2 * 7 / 3 + t.ppf(0.975, 1) ** 2 * 1)
    assert own.half_width(0.95) == pytest.approx(reach)


def test_what_is_left_counts_once() -> None:
    """Values (1, -1), (-1, 1): class and run means are all 0, and what is left is no part of the classes."""
    own = over_runs(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert (own.mean, own.class_variance, own.run_variance) == (0.0, 0.0, 0.0)
    assert math.isnan(own.half_width(0.95))
    assert math.isnan(own.p())


def test_classes_that_a_run_says_nothing_about() -> None:
    """The second run lacks the class that is high in both: that makes it no low run."""
    values = np.array([[0.0, 1.0, 50.0], [2.0, 3.0, np.nan]])
    assert over_runs(values).run_variance == pytest.approx(over_runs(values[:, :2]).run_variance, rel=0.6)
    assert over_runs(values).run_variance < 3
    assert over_runs(np.array([[1.0, 2.0, np.nan], [1.5, 2.5, np.nan]])).classes == 2


def test_difference_is_paired_by_class_and_pools_the_runs() -> None:
    first, second = PLAIN + 1, np.array([[0.0, 1.0, 5.0], [0.5, 1.5, 5.5], [1.0, 2.0, 6.0]])
    own = between(first, second)
    assert own.mean == pytest.approx((1 + 1) - 0.5)
    assert own.class_variance == pytest.approx(0.0)  # the classes' own spread is the same on both sides
    assert own.runs == (2, 3)
    assert own.run_freedom == 3
    assert own.run_variance == pytest.approx((1 * 2.0 + 2 * 0.25) / 3)
    assert own.from_runs == pytest.approx(own.run_variance * (1 / 2 + 1 / 3))


def test_one_run_a_side_leaves_it_open() -> None:
    own = between(PLAIN[:1], PLAIN[1:])
    assert own.mean == -2.0
    assert all(math.isnan(value) for value in (own.run_variance, own.half_width(0.95), own.p(), own.detectable(0.95)))
    assert own.runs_needed(0.1, 0.95) is None
    assert between(PLAIN[:1], PLAIN).half_width(0.95) > 0  # one side's runs stand for those of the other


def test_p_is_where_the_interval_starts_to_hold_zero() -> None:
    own = Crossed(mean=0.2, class_variance=0.001, classes=54, run_variance=0.006, runs=(3, 3), run_freedom=4)
    assert own.half_width(1 - own.p()) == pytest.approx(0.2)
    assert Crossed(9.0, 0.001, 54, 0.0001, (8, 8), 14).p() == 1e-9
    assert Crossed(0.0, 0.001, 54, 0.0001, (8, 8), 14).p() == pytest.approx(1.0)


def test_runs_needed_see_the_effect_and_one_less_does_not() -> None:
    own = Crossed(mean=0.0, class_variance=0.0004, classes=54, run_variance=0.06**2, runs=(3, 3), run_freedom=4)
    needed = own.runs_needed(0.2, 0.95)
    assert needed is not None
    for runs, seen in ((needed, True), (needed - 1, False)):
        more = Crossed(0.0, 0.0004, 54, 0.06**2, (runs, runs), 2 * (runs - 1))
        assert (more.detectable(0.95) <= 0.2) == seen
    assert own.runs_needed(0.03, 0.95) is None  # the classes alone leave more than that open


def test_common_spread_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4 with run variances 0.02, 0.005, 0.015: phi is 0.04 / (1/4 + 3/16 + 3/16)."""
    shares = {
        name: Crossed(0.0, 0.0, 10, variance, (3, 3), 4) for name, variance in (("a", 0.02), ("b", 0.005), ("c", 0.015))
    }
    found = with_common_spread(shares, {"a": 0.5, "b": 0.25, "c": 0.25})
    phi = 0.04 / 0.625
    assert [own.run_variance for own in found.values()] == pytest.approx([phi / 4, phi * 3 / 16, phi * 3 / 16])
    # The covariance of such shares: its trace squared over the trace of its square.
    p = np.array([0.5, 0.25, 0.25])
    covariance = np.diag(p) - np.outer(p, p)
    worth = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert found["a"].run_freedom == pytest.approx(4 * worth)
    assert with_common_spread(shares, {"a": 0.0, "b": 0.0, "c": 0.0}) == shares


@pytest.mark.parametrize(("runs", "classes"), [(2, 16), (3, 54)])
def test_two_sides_of_one_vlm_differ_in_one_of_twenty(runs: int, classes: int) -> None:
    """Runs that differ by 0.1, as training runs do: about 5 % false differences; over classes alone it would be most."""
    rng = np.random.default_rng(0)
    false = alone = 0
    for _ in range(400):
        by_class = rng.normal(size=classes) * 0.2
        first, second = (
            by_class + 0.1 * rng.normal(size=(runs, 1)) + 0.15 * rng.normal(size=(runs, classes)) for _ in "ab"
        )
        false += between(first, second).p() < 0.05
        difference = first[0] - second[0]
        alone += abs(difference.mean()) > 2 * difference.std() / math.sqrt(classes)
    assert 0.01 <= false / 400 <= 0.08
    assert alone / 400 > 0.4
