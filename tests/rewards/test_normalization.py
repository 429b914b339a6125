"""RewardStats standardises as worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ex2.rewards.normalization import RewardStats, reward_groups


def test_statistics_by_hand() -> None:
    # Class 0: 1, 3 (mean 2); class 1: 10, 12, 14 (mean 12); class 2 has no text: mean of 2 and 12.
    # Squares around class means: 1 + 1 + 4 + 0 + 4 = 10 with 5 - 2 = 3 degrees of freedom.
    values = torch.tensor([10.0, 1.0, 12.0, 3.0, 14.0])
    stats = RewardStats.from_samples(values, torch.tensor([1, 0, 1, 0, 1]), num_groups=3)
    assert stats.mean == pytest.approx((2.0, 12.0, 7.0))
    assert stats.std == pytest.approx(math.sqrt(10 / 3))


def test_ordered_pairs_are_groups_of_their_own() -> None:
    assert reward_groups([2, 0], None, 3) == [2, 0]
    assert reward_groups([0, 2, 2], [2, 0, 1], 3) == [2, 6, 7]
    assert len({reward_groups([i], [j], 5)[0] for i in range(5) for j in range(5)}) == 25


def test_statistics_do_not_depend_on_differences_between_classes() -> None:
    ids = torch.tensor([0, 0, 1, 1])
    near = RewardStats.from_samples(torch.tensor([0.1, 0.3, 0.1, 0.3]), ids, 2)
    far = RewardStats.from_samples(torch.tensor([0.1, 0.3, 5.1, 5.3]), ids, 2)
    assert near.std == pytest.approx(far.std, rel=1e-5)


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.7]])
def test_statistics_without_spread_stay_finite(values: list[float]) -> None:
    stats = RewardStats.from_samples(torch.tensor(values), torch.zeros(len(values), dtype=torch.long), 1)
    assert stats.mean == pytest.approx((values[0],))
    assert stats.std == 1e-6
