"""The mathematics of PPO against numbers worked out by hand, and the properties it must have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ex2.rl import objectives as F

LN2 = math.log(2)


def t(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


# ---------------------------------------------------------------- hand-computed numbers


def test_masked_mean() -> None:
    x, mask = t([1, 2], [3, 100]), t([1, 1], [1, 0])
    assert F.masked_mean(x, mask).item() == 2.0  # (1 + 2 + 3) / 3
    assert F.masked_mean(x, mask.bool()).item() == 2.0
    assert F.masked_mean(x, torch.zeros_like(x)).item() == 0.0


def test_masked_sums() -> None:
    sums = F.masked_sums(t([1, 2], [3, 100]), t([1, 1], [1, 0]))
    assert sums.tolist() == [6.0, 14.0, 3.0]  # 1 + 2 + 3, 1 + 4 + 9, three tokens
    assert sums.dtype == torch.float64


def test_masked_whiten() -> None:
    # Mean of 1, 3, 5 is 3; population variance is (4 + 0 + 4) / 3 = 8/3, so 5 becomes 2 / sqrt(8/3) = sqrt(1.5).
    whitened = F.masked_whiten(t([1, 3], [5, 9]), t([1, 1], [1, 0]))
    close(whitened, t([-math.sqrt(1.5), 0], [math.sqrt(1.5), 0]))
    assert whitened.dtype == torch.float32


def test_whitening_with_a_floor_does_not_blow_small_differences_up() -> None:
    x, mask = t([1.0, 1.2], [0.8, 1.0]), t([1, 1], [1, 1])  # mean 1, standard deviation 0.141
    close(F.masked_whiten(x, mask, floor=1.0), t([0, 0.2], [-0.2, 0]), atol=1e-6)
    close(F.masked_whiten(x, mask, floor=0.1), F.masked_whiten(x, mask))
    close(F.masked_whiten(10 * x, mask, floor=1.0), F.masked_whiten(x, mask), atol=1e-5)  # 1.41 lies above the floor


def test_standardised_sum() -> None:
    # Two prompts of two completions. Rewards 1 and 3, then 10 and 10; the second reward is 1000 times as large.
    rewards = t([1.0, 1000.0], [3.0, 3000.0], [10.0, 0.0], [10.0, 5000.0])
    half = 1 / math.sqrt(2)  # a pair lies half its standard deviation's root 2 from its mean
    close(F.standardised_sum(rewards, t(1.0, 1.0), 2), t(-2 * half, 2 * half, -half, half), atol=1e-3)
    close(F.standardised_sum(rewards, t(1.0, 0.0), 2), t(-half, half, 0, 0), atol=1e-3)
    together = F.standardised_sum(rewards, t(1.0, 0.0), 1)  # all four: mean 6, standard deviation sqrt(66 / 3)
    close(together, (rewards[:, 0] - 6) / math.sqrt(66 / 3), atol=1e-3)


def test_standardised_sum_of_rewards_that_do_not_apply() -> None:
    nan = math.nan
    total = F.standardised_sum(t([1.0, nan], [3.0, 5.0], [nan, nan], [2.0, 7.0]), t(1.0, 1.0), 1)
    assert total[2].isnan()
    half = 1 / math.sqrt(2)
    close(total[[0, 1, 3]], t(-1.0, 1.0 - half, half), atol=1e-3)


def test_masked_whiten_keeps_precision_far_from_zero() -> None:
    # In float32 the squares of 10000 +- 0.01 would drown their difference.
    close(F.masked_whiten(t([9999.99, 10000.01]), t([1, 1])), t([-1, 1]), atol=1e-3)


def test_gae() -> None:
    # gamma 0.9, lambda 0.8, gamma x lambda 0.72. First row, three tokens:
    #   delta2 = 3 - 1.5             = 1.5     A2 = 1.5
    #   delta1 = 2 + 0.9 * 1.5 - 1   = 2.35    A1 = 2.35 + 0.72 * 1.5  = 3.43
    #   delta0 = 1 + 0.9 * 1   - 0.5 = 1.4     A0 = 1.4  + 0.72 * 3.43 = 3.8696
    # Second row, two tokens and padding (whose reward 9 and value 7 must not matter):
    #   delta1 = 5 - 0.4             = 4.6     A1 = 4.6
    #   delta0 = 1 + 0.9 * 0.4 - 0.2 = 1.16    A0 = 1.16 + 0.72 * 4.6  = 4.472
    rewards, values = t([1, 2, 3], [1, 5, 9]), t([0.5, 1, 1.5], [0.2, 0.4, 7])
    advantages, returns = F.gae(rewards, values, t([1, 1, 1], [1, 1, 0]), gamma=0.9, lam=0.8)
    close(advantages, t([3.8696, 3.43, 1.5], [4.472, 4.6, 0]))
    close(returns, t([4.3696, 4.43, 3.0], [4.672, 5.0, 0]))


def test_gae_with_lambda_zero_is_the_one_step_difference() -> None:
    # delta0 = 0 + 0.5 * 3 - 1 = 0.5; delta1 = 2 - 3 = -1
    advantages, returns = F.gae(t([0, 2]), t([1, 3]), t([1, 1]), gamma=0.5, lam=0.0)
    close(advantages, t([0.5, -1]))
    close(returns, t([1.5, 2]))


def test_shaped_rewards() -> None:
    # -0.5 x log-ratio everywhere; the score (2 and -1) at the last token that was generated.
    rewards = F.shaped_rewards(
        torch.tensor([2.0, -1.0]), t([0.1, 0.2, 0.3], [0.5, -0.5, 9]), t([1, 1, 1], [1, 1, 0]), kl_coef=0.5
    )
    close(rewards, t([-0.05, -0.1, 1.85], [-0.25, -0.75, 0]))


def test_leave_one_out() -> None:
    # Groups 1, 2, 6 and 4, 4, 10: the others' means are 8/2, 7/2, 3/2 and 14/2, 14/2, 8/2.
    scores = torch.tensor([1.0, 2.0, 6.0, 4.0, 4.0, 10.0])
    assert F.leave_one_out(scores, group_size=3).tolist() == [4.0, 3.5, 1.5, 7.0, 7.0, 4.0]
    assert F.leave_one_out(scores, group_size=2).tolist() == [2.0, 1.0, 4.0, 6.0, 10.0, 4.0]


def test_kl_estimators() -> None:
    # Policy 1/2, reference 1/4: k1 = ln 2; r = 1/2, k3 = 1/2 - 1 + ln 2.
    # Policy 1/4, reference 1/2: k1 = -ln 2; r = 2, k3 = 2 - 1 - ln 2.
    policy, reference = t([0.5, 0.25]).log(), t([0.25, 0.5]).log()
    close(F.kl_k1(policy, reference), t([LN2, -LN2]))
    close(F.kl_k3(policy, reference), t([LN2 - 0.5, 1 - LN2]))


def test_both_kl_estimators_are_unbiased() -> None:
    # Policy (1/2, 1/2), reference (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln(2/3).
    policy, reference = t([0.5, 0.5]), t([0.25, 0.75])
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    for estimator in (F.kl_k1, F.kl_k3):
        assert (policy * estimator(policy.log(), reference.log())).sum().item() == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.5, 2.0, -2.4, 1.0),  # better action already likelier: held at 1.2 x 2
        (0.5, 2.0, -1.0, 0.0),  # better action got rarer: free to come back
        (1.5, -2.0, 3.0, 0.0),  # worse action got likelier: free to come back
        (0.5, -2.0, 1.6, 1.0),  # worse action already rarer: held at 0.8 x 2
        (1.1, 2.0, -2.2, 0.0),  # within the clip range
        (1.0, 2.0, -2.0, 0.0),
    ],
)
def test_clipped_policy_loss(ratio: float, advantage: float, loss: float, clipped: float) -> None:
    logps = t([math.log(ratio) - 1]).requires_grad_()
    value, is_clipped = F.clipped_policy_loss(logps, t([-1.0]), t([advantage]), epsilon=0.2)
    close(value, t([loss]))
    assert is_clipped.tolist() == [[clipped]]
    value.sum().backward()
    # d(-A r)/d log pi = -A r where nothing is clipped, 0 where clipping holds.
    close(logps.grad, t([0.0 if clipped else -advantage * ratio]))


@pytest.mark.parametrize(
    ("value", "target", "loss", "clipped"),
    [
        (2.0, 0.0, 2.0, 0.0),  # moved away from the target: (2 - 0)^2 = 4 beats (1.2 - 0)^2
        (2.0, 3.0, 1.62, 1.0),  # moved too far towards it: held at (1.2 - 3)^2 = 3.24
        (0.5, 0.0, 0.32, 1.0),  # the same downwards: (0.8 - 0)^2 = 0.64
        (1.1, 2.0, 0.405, 0.0),  # within the clip range: (1.1 - 2)^2 = 0.81
    ],
)
def test_clipped_value_loss(value: float, target: float, loss: float, clipped: float) -> None:
    new = t([value]).requires_grad_()
    actual, is_clipped = F.clipped_value_loss(new, t([1.0]), t([target]), clip_range=0.2)
    close(actual, t([loss]))
    assert is_clipped.tolist() == [[clipped]]
    actual.sum().backward()
    close(new.grad, t([0.0 if clipped else value - target]))


def test_rounding_is_not_counted_as_clipping() -> None:
    old = torch.linspace(-30, 30, 1001)[None]
    new = old + torch.linspace(-0.1, 0.1, 1001)[None]
    _, clipped = F.clipped_value_loss(new, old, torch.ones_like(old), clip_range=0.2)
    assert clipped.sum() == 0


def test_value_loss_without_clipping() -> None:
    loss, clipped = F.clipped_value_loss(t([2.0]), t([1.0]), t([5.0]), clip_range=None)
    assert loss.tolist() == [[4.5]]  # (2 - 5)^2 / 2
    assert clipped.tolist() == [[0.0]]


def test_explained_variance() -> None:
    mask = t([1, 1, 0])
    # Returns 1, 3 have variance 1; residuals 0, 1 have variance 1/4.
    assert F.explained_variance(t([1, 2, 50]), t([1, 3, -9]), mask).item() == pytest.approx(0.75)
    assert F.explained_variance(t([1, 3, 50]), t([1, 3, -9]), mask).item() == 1.0
    assert F.explained_variance(t([7, 7, 50]), t([1, 3, -9]), mask).item() == pytest.approx(0.0)
    # Wrong way round: residuals 1 - 3, 3 - 1 have variance 4.
    assert F.explained_variance(t([3, 1, 50]), t([1, 3, -9]), mask).item() == pytest.approx(-3.0)


def test_explained_variance_of_equal_returns_is_zero() -> None:
    assert F.explained_variance(t([1, 2]), t([4, 4]), t([1, 1])).item() == 0.0


# ---------------------------------------------------------------- properties

numbers = st.floats(-5, 5, width=32)


@st.composite
def batches(draw: st.DrawFn, tensors: int = 2) -> tuple[list[Tensor], Tensor]:
    """Some (B, T) tensors of finite numbers and a right-padded mask with at least one token a row."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    lengths = torch.tensor(draw(st.lists(st.integers(1, columns), min_size=rows, max_size=rows)))
    mask = (torch.arange(columns) < lengths.unsqueeze(1)).long()
    values = draw(st.lists(numbers, min_size=tensors * rows * columns, max_size=tensors * rows * columns))
    return list(torch.tensor(values).view(tensors, rows, columns)), mask


quick = settings(max_examples=50, deadline=None)


@quick
@given(batches(tensors=4), st.floats(0, 1), st.floats(0, 1))
def test_padding_content_changes_nothing(batch: tuple[list[Tensor], Tensor], gamma: float, lam: float) -> None:
    (a, b, junk_a, junk_b), mask = batch
    dirty_a, dirty_b = torch.where(mask == 1, a, junk_a), torch.where(mask == 1, b, junk_b)
    clean_a, clean_b = a * mask, b * mask
    scores = a[:, 0]
    for function in (
        lambda x, y: F.masked_mean(x, mask),
        lambda x, y: F.masked_sums(x, mask),
        lambda x, y: F.masked_whiten(x, mask),
        lambda x, y: F.gae(x, y, mask, gamma, lam)[0],
        lambda x, y: F.gae(x, y, mask, gamma, lam)[1],
        lambda x, y: F.shaped_rewards(scores, x, mask, 0.3),
        lambda x, y: F.explained_variance(x, y, mask),
    ):
        assert torch.equal(function(dirty_a, dirty_b), function(clean_a, clean_b))


@quick
@given(batches(), st.floats(0, 1), st.floats(0, 1), st.integers(1, 3))
def test_more_padding_changes_nothing(batch: tuple[list[Tensor], Tensor], gamma: float, lam: float, extra: int) -> None:
    (rewards, values), mask = batch
    longer = [torch.nn.functional.pad(x, (0, extra)) for x in (rewards, values, mask)]
    for short, long in zip(F.gae(rewards, values, mask, gamma, lam), F.gae(*longer, gamma, lam), strict=True):
        assert torch.equal(torch.nn.functional.pad(short, (0, extra)), long)


@quick
@given(batches(), st.floats(0, 1))
def test_lambda_one_gives_monte_carlo_returns(batch: tuple[list[Tensor], Tensor], gamma: float) -> None:
    (rewards, values), mask = batch
    _, returns = F.gae(rewards, values, mask, gamma, lam=1.0)
    expected = torch.zeros_like(rewards)
    for row in range(rewards.shape[0]):
        for start in range(int(mask[row].sum())):
            for later in range(start, int(mask[row].sum())):
                expected[row, start] += gamma ** (later - start) * rewards[row, later]
    close(returns, expected, atol=1e-4)


@quick
@given(batches(), st.floats(0, 1), st.floats(0, 1))
def test_perfect_values_leave_no_advantage(batch: tuple[list[Tensor], Tensor], gamma: float, lam: float) -> None:
    (rewards, values), mask = batch
    _, monte_carlo = F.gae(rewards, values, mask, gamma, lam=1.0)
    advantages, _ = F.gae(rewards, monte_carlo, mask, gamma, lam)
    close(advantages, torch.zeros_like(advantages), atol=1e-4)


@quick
@given(batches(tensors=1), numbers)
def test_constant_advantages_whiten_to_zero(batch: tuple[list[Tensor], Tensor], constant: float) -> None:
    (x,), mask = batch
    whitened = F.masked_whiten(torch.full_like(x, constant), mask)
    assert whitened.abs().max().item() < 1e-3


@quick
@given(batches(tensors=1))
def test_whitened_values_have_mean_0_and_variance_1(batch: tuple[list[Tensor], Tensor]) -> None:
    (x,), mask = batch
    whitened = F.masked_whiten(x, mask)[mask == 1].double()
    assert whitened.mean().item() == pytest.approx(0, abs=1e-4)
    if x[mask == 1].std(unbiased=False) > 0.01:
        assert whitened.square().mean().item() == pytest.approx(1, abs=1e-3)


@quick
@given(batches(tensors=1), batches(tensors=1))
def test_whitening_is_the_same_over_two_processes(
    first: tuple[list[Tensor], Tensor], second: tuple[list[Tensor], Tensor]
) -> None:
    (x,), x_mask = first
    (y,), y_mask = second
    width = max(x.shape[1], y.shape[1])
    whole, mask = (
        torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])
        for parts in ((x, y), (x_mask, y_mask))
    )
    sums = F.masked_sums(x, x_mask) + F.masked_sums(y, y_mask)  # what an all-reduce gives to each process
    expected = F.masked_whiten(whole, mask)
    close(F.whiten_from_sums(x, x_mask, sums), expected[: len(x), : x.shape[1]], atol=1e-5)
    close(F.whiten_from_sums(y, y_mask, sums), expected[len(x) :, : y.shape[1]], atol=1e-5)


@quick
@given(batches())
def test_k3_is_never_negative_and_equal_policies_have_no_kl(batch: tuple[list[Tensor], Tensor]) -> None:
    (logps, ref_logps), _ = batch
    assert (F.kl_k3(logps, ref_logps) >= -1e-6).all()
    assert (F.kl_k3(logps, logps) == 0).all()
    assert (F.kl_k1(logps, logps) == 0).all()


@quick
@given(batches(tensors=3), st.floats(0, 0.5))
def test_clipping_never_lowers_the_loss(batch: tuple[list[Tensor], Tensor], epsilon: float) -> None:
    (a, b, c), _ = batch
    loss, clipped = F.clipped_policy_loss(a, b, c, epsilon)
    free = -c * (a - b).exp()
    assert (loss >= free).all()
    assert torch.equal(loss > free, clipped == 1)
    value_loss, value_clipped = F.clipped_value_loss(a, b, c, epsilon)
    free_value, _ = F.clipped_value_loss(a, b, c, None)
    assert (value_loss >= free_value).all()
    assert torch.equal(value_loss > free_value, value_clipped == 1)


@quick
@given(batches(tensors=1), st.floats(0, 2))
def test_shaped_rewards_sum_to_score_minus_kl(batch: tuple[list[Tensor], Tensor], kl_coef: float) -> None:
    (log_ratio,), mask = batch
    scores = log_ratio[:, 0] + 1
    total = F.shaped_rewards(scores, log_ratio, mask, kl_coef).sum(dim=1)
    close(total, scores - kl_coef * (log_ratio * mask).sum(dim=1), atol=1e-4)
