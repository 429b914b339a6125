"""What rewards are standardised with (`reward_normalization: zscore`): how the untrained policy scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RewardStats:
    """How the untrained policy scores: what `zscore` standardises rewards with.

    The mean is per group: per class, or per ordered pair where prompts are about pairs. Groups differ more than texts do,
    and a constant per group changes no optimum. The standard deviation is pooled within groups.

    Attributes:
        mean: Mean raw similarity of the untrained policy's texts for each group (see `reward_groups`).
        std: Standard deviation of the raw similarity around its group mean.
    """

    mean: tuple[float, ...]
    std: float

    @classmethod
    def from_samples(cls, values: Tensor, groups: Tensor, num_groups: int) -> RewardStats:
        """From raw similarities (N,) of N texts of groups (N,). A group without texts gets the mean of the others."""
        import torch

        values, groups = values.double().cpu(), groups.cpu()
        count = torch.bincount(groups, minlength=num_groups)
        total = torch.zeros(num_groups, dtype=torch.double).index_add_(0, groups, values)
        seen = count > 0
        mean = total / count.clamp(min=1)
        mean[~seen] = mean[seen].mean()
        freedom = max(int(count.sum() - seen.sum()), 1)
        std = ((values - mean[groups]).square().sum() / freedom).sqrt()
        return cls(tuple(mean.tolist()), max(float(std), 1e-6))


def reward_groups(class_ids: Sequence[int], other_ids: Sequence[int] | None, num_classes: int) -> list[int]:
    """The group of each text: its class id, or of its ordered pair (i, j) the number i x C + j."""
    if other_ids is None:
        return list(class_ids)
    return [i * num_classes + j for i, j in zip(class_ids, other_ids, strict=True)]
