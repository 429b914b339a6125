"""The mathematics of PPO for language models as pure functions of tensors.

Shapes: B completions of at most T tokens. `mask` is 1 (or True) on generated tokens up to and including the end token and
0 on padding; masks are right-padded, so every row is ones followed by zeros. Sources: Schulman et al. 2017
(arXiv:1707.06347, PPO), Schulman et al. 2016 (arXiv:1506.02438, GAE), Ziegler et al. 2019 (arXiv:1909.08593, KL in the
reward and the adaptive coefficient), http://joschu.net/blog/kl-approx.html (k1 and k3 estimators).
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (B, T) over the positions where `mask` is set; 0 where none is."""
    weight = mask.to(x.dtype)
    return (x * weight).sum() / weight.sum().clamp(min=1)


def masked_sums(x: Tensor, mask: Tensor) -> Tensor:
    """`(sum, sum of squares, count)` of `x` (B, T) under `mask`, float64 `(3,)`.

    Sums add up over processes, so whitening after an all-reduce is the same for any number of processes.
    """
    values, weight = x.double(), mask.double()
    return torch.stack([(values * weight).sum(), (values.square() * weight).sum(), weight.sum()])


def whiten_from_sums(x: Tensor, mask: Tensor, sums: Tensor, eps: float = 1e-8, floor: float = 0.0) -> Tensor:
    """Shift and scale `x` (B, T) to mean 0 and variance 1 given `masked_sums`; padding becomes 0.

    A standard deviation below `floor` counts as `floor`: where little differs, whitening would blow the noise up.
    """
    total, squares, count = sums.unbind()
    mean = total / count.clamp(min=1)
    variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=floor**2)
    whitened = (x.double() - mean) / (variance + eps).sqrt()
    return (whitened * mask.double()).to(x.dtype)


def masked_whiten(x: Tensor, mask: Tensor, floor: float = 0.0) -> Tensor:
    """Whiten `x` (B, T) over the masked positions: mean 0, population variance 1, padding 0.

    A constant `x` gives zeros: there is nothing to learn from equal advantages. See `whiten_from_sums` for `floor`.
    """
    return whiten_from_sums(x, mask, masked_sums(x, mask), floor=floor)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv:1506.02438, equation 16) over one completion a row.

    Args:
        rewards: Reward received after each token, (B, T).
        values: Value estimate before each token, (B, T).
        mask: Ones on generated tokens, (B, T). The state after the last one is terminal, with value 0: a completion
            cut at the length limit is scored as it stands, so there is no later reward to estimate.
        gamma: Discount per token, in [0, 1].
        lam: Weight of longer returns: 0 is one-step temporal difference, 1 is the Monte Carlo return.

    Returns:
        `(advantages, returns)`, both (B, T) and 0 on padding, with `returns = advantages + values`.
    """
    weight = mask.to(values.dtype)
    rewards, values = rewards * weight, values * weight  # so padding acts as the terminal state, value 0
    advantages = torch.zeros_like(values)
    next_advantage = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * weight[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def shaped_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token reward: minus `kl_coef` x KL at every token, plus the score at the last one (arXiv:1909.08593, eq. 2).

    Args:
        scores: Reward of the whole completion, (B,).
        log_ratio: log pi_old(token) - log pi_reference(token), (B, T): the k1 estimate of the KL divergence.
        mask: Ones on generated tokens, (B, T), at least one a row.
        kl_coef: Strength of the KL penalty in reward units per nat.
    """
    weight = mask.to(log_ratio.dtype)
    rewards = -kl_coef * log_ratio * weight
    last = weight.sum(dim=1).long() - 1
    return rewards.scatter_add(1, last.unsqueeze(1), scores.to(rewards.dtype).unsqueeze(1))


def leave_one_out(scores: Tensor, group_size: int) -> Tensor:
    """Mean score of the other completions of the same prompt (Kool et al. 2019; RLOO, arXiv:2402.14740, equation 8).

    Args:
        scores: One score a completion, (N,), the `group_size` completions of a prompt next to each other.
        group_size: Completions a prompt, at least 2.

    Returns:
        (N,). Independent of the completion's own tokens, so subtracting it leaves the policy gradient unbiased.
    """
    groups = scores.view(-1, group_size)
    return ((groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)).view(-1)


def standardised_sum(rewards: Tensor, weights: Tensor, group_size: int, eps: float = 1e-4) -> Tensor:
    """Weighted sum of rewards that are standardised one by one, so that none drowns the others (GDPO, arXiv:2601.05242, eq. 4).

    Args:
        rewards: Each of K rewards of N completions, (N, K); NaN where one does not apply.
        weights: (K,).
        group_size: Completions a prompt, which lie next to each other and are compared with each other; 1: all N are.
        eps: Added to the standard deviations, as in TRL's GRPO (`normalize_then_sum`).

    Returns:
        (N,), NaN where no reward applies.
    """
    groups = rewards.view(-1, group_size if group_size > 1 else len(rewards), rewards.size(1))
    applies = ~groups.isnan()
    count = applies.sum(dim=1, keepdim=True)
    apart = groups - groups.nanmean(dim=1, keepdim=True)
    variance = apart.square().nansum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    standard = (apart / (variance.sqrt() + eps)).view_as(rewards)
    total = (standard * weights).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), torch.nan)


def kl_k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Unbiased per-token estimate of KL(policy || reference) from the policy's samples; single values can be negative."""
    return logps - ref_logps


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Unbiased, never negative, lower-variance estimate: r - 1 - log r with r = reference / policy."""
    log_ratio = ref_logps - logps
    return log_ratio.exp() - 1 - log_ratio


def clipped_policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate per token (arXiv:1707.06347, equation 7), to be minimised.

    Returns `(loss, clipped)`, both (B, T); `clipped` is 1.0 where clipping stops the gradient.
    """
    ratio = (logps - old_logps).exp()
    unclipped_loss = -advantages * ratio
    clipped_loss = -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(unclipped_loss, clipped_loss), (clipped_loss > unclipped_loss).to(logps.dtype)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> tuple[Tensor, Tensor]:
    """Half squared error per token, with the new value kept within `clip_range` of the old one (None: no clipping).

    Returns `(loss, clipped)`, both (B, T); `clipped` is 1.0 where clipping stops the gradient.
    """
    unclipped = (values - returns).square()
    if clip_range is None:
        return 0.5 * unclipped, torch.zeros_like(unclipped)
    # Not old + clamp(new - old): a value within the range stays as it is, bit for bit.
    kept = values.clamp(old_values - clip_range, old_values + clip_range)
    clipped = (kept - returns).square()
    return 0.5 * torch.maximum(unclipped, clipped), (clipped > unclipped).to(values.dtype)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over masked positions: 1 is perfect, 0 no better than a constant.

    0 where the returns do not vary, since then there is nothing to explain.
    """
    sums = [masked_sums(x, mask) for x in (returns - values, returns)]
    return explained_variance_from_sums(torch.stack(sums)).to(returns.dtype)


def explained_variance_from_sums(sums: Tensor) -> Tensor:
    """The same from `masked_sums` of returns - values and of returns, (2, 3), which add up over processes."""
    total, squares, count = sums.unbind(dim=1)
    unexplained, spread = squares / count.clamp(min=1) - (total / count.clamp(min=1)).square()
    explained = 1 - unexplained / spread
    return torch.where(spread <= 1e-12, torch.zeros_like(explained), explained)
